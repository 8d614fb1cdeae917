"""Packs the Python packages of a run for a machine with a card and without a network.

    python benchmarks/pack_for_card.py packages.tgz [--python 3.12] [--cuda 130] [--without NAMES]

On a machine with a network and with sd3tune installed: downloads the wheels of the versions that
are installed here, for Linux on x86-64 and that Python, unpacks them into one folder and packs it.
torch and what it brings is expected on the other machine. Of bitsandbytes, only the library of one
version of CUDA is kept (`--cuda`, as in the name of torch's build: 13.0 is 130). The other machine
needs no installation (about 69 MB; 40 with --without numpy,pillow,zstandard,hf-xet where it has
them):

    PACKAGES=packages.tgz bash benchmarks/on_a_card.sh FOLDER
"""

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import machine

# What sd3tune imports when it trains, and what tests/device needs; torch brings the rest.
NAMES = (
    "accelerate", "annotated-types", "bitsandbytes", "certifi", "charset-normalizer", "click",
    "diffusers", "filelock", "fsspec", "h11", "hf-xet", "httpcore2", "httpx2", "huggingface_hub",
    "idna", "iniconfig", "lycoris-lora", "markdown-it-py", "mdurl", "nvidia-ml-py",
    "optimum-quanto", "packaging", "peft", "pillow", "pluggy", "psutil", "pydantic",
    "pydantic-core", "pygments", "pytest", "pytorch-optimizer", "pyyaml", "regex", "requests",
    "rich", "safetensors", "sentencepiece", "starlette", "sse-starlette", "anyio", "uvicorn",
    "tokenizers", "toml", "torch-optimi", "tqdm", "transformers", "truststore", "typer",
    "typing-extensions", "typing-inspection", "urllib3", "zstandard", "importlib-metadata", "zipp",
    "ninja", "numpy", "einops",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64",
             "manylinux_2_24_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64")  # fmt: skip


def installed(without: list[str]) -> list[str]:
    """name==version of each package that is installed here."""
    found = ((name, machine.installed(name)) for name in NAMES if name not in without)
    return [f"{name}=={version}" for name, version in found if version]


def download(folder: Path, python: str, packages: list[str]) -> list[Path]:
    """The wheels. Raises CalledProcessError where a version has none for that machine."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest",
               str(folder), "--python-version", python, "--only-binary=:all:"]  # fmt: skip
    for name in PLATFORMS:
        command += ["--platform", name]
    subprocess.run([*command, *packages], check=True)
    return sorted(folder.glob("*.whl"))


def wanted(name: str, cuda: str) -> bool:
    """Whether a file of a wheel is kept: of bitsandbytes' libraries, one version of CUDA's."""
    library = re.search(r"bitsandbytes/libbitsandbytes_(\w+)\.so$", name)
    return library is None or library.group(1) in (f"cuda{cuda}", "cpu")


def pack(wheels: list[Path], folder: Path, cuda: str, target: Path) -> None:
    """Unpacks the wheels into `folder` and packs that."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [n for n in archive.namelist() if wanted(n, cuda)])
    with tarfile.open(target, "w:gz", compresslevel=6) as packed:
        packed.add(folder, arcname=".")


def main() -> None:
    made = machine.parser(__doc__, writes_json=False)
    made.add_argument("target", type=Path, help="a .tgz file")
    made.add_argument("--python", default="3.12", help="of the other machine  [3.12]")
    made.add_argument("--cuda", default="130", help="of torch on the other machine  [130]")
    made.add_argument("--without", default="", metavar="NAMES", help="with commas: what it has")
    given = made.parse_args()
    with tempfile.TemporaryDirectory() as name:
        packages = installed(given.without.split(","))
        wheels = download(Path(name), given.python, packages)
        folder = Path(name, "packages")
        pack(wheels, folder, given.cuda, given.target)
    size = given.target.stat().st_size / 1e6
    print(f"{given.target}: {len(wheels)} packages, {size:.0f} MB; torch is not in it")


if __name__ == "__main__":
    main()
