"""The pages of the documentation, their code blocks, and the sd3tune commands in them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
PAGES = [page for page in PAGES if page.parent.name != "adr"]  # decisions as they were taken


def named(page: Path) -> str:
    """A page as its path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str = "") -> list[str]:
    """The code blocks of a page; language "": of every language. A block may have a title."""
    of = language or "[a-z]*"
    return re.findall(rf"^ *```{of}(?: .*)?\n(.*?)^ *```$", page.read_text(), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """Words of every sd3tune command in a block or between backticks. Blocks of `text` are what a
    terminal showed, where lines are broken."""
    typed = [block for block in blocks(page) if block not in blocks(page, "text")]
    lines = [line.strip() for block in typed for line in block.splitlines()]
    lines += re.findall(r"`(sd3tune [^`\n]+)`", page.read_text())
    lines = [re.sub(r"\s#.*|[|&;].*|\s{2,}\S.*", "", line) for line in lines]
    whole = [line for line in lines if re.match(r"(\S+/)?sd3tune [a-z]", line)]
    plain = [re.sub(r"\bN\b", "1", line) for line in whole if not re.search(r"…|\.\.\.", line)]
    return [shlex.split(line)[1:] for line in plain]
