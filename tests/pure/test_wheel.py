"""What `pip install` puts on a machine."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = "import setuptools.build_meta as b; b.build_wheel('dist')"


def test_the_wheel_has_the_package_with_its_types_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "sd3tune", source / "sd3tune",
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "dist").mkdir()
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (source / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "sd3tune").rglob("*.py")}
    folders = ("data/fonts", "live/assets", "demo/painter", "config/examples")
    for folder in (f"sd3tune/{name}" for name in folders):
        parts = (p for p in (ROOT / folder).rglob("*") if p.is_file())
        files |= {p.relative_to(ROOT).as_posix() for p in parts}
    files.add("sd3tune/backends/kernels/activations.safetensors")
    assert {n for n in names if ".dist-info/" not in n} == files | {"sd3tune/py.typed"}
