"""Files with the names of modules, in a folder where somebody types a command."""

from pathlib import Path

# Of Python and of packages that doctor, plan and train import; and of those they would like to.
NAMES = "tokenize platform json numpy torch random ast csv pynvml amdsmi bitsandbytes".split()
TEXT = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\nraise ImportError\n"


def plant(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / f"{name}.py").write_text(TEXT)
    return folder


def ran(folder: Path) -> list[str]:
    """Those that were imported."""
    return [path.stem for path in folder.rglob("*.ran")]
