"""Documents made from the code are up to date, and links inside the repository lead somewhere."""

import re
from pathlib import Path

from sd3tune.config.config import Config
from sd3tune.config.document import document

ROOT = Path(__file__).parents[2]


def test_the_reference_of_settings_is_current() -> None:
    path = ROOT / "docs" / "reference" / "settings.md"
    assert path.read_text() == document(), "python -m sd3tune.config.document > " + str(path)


def test_every_setting_is_explained() -> None:
    assert all(field.description for field in Config.model_fields.values())


def test_links_and_named_files_exist() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for source in (ROOT / "sd3tune").rglob("*.py"):
        for named in re.findall(r"docs/[\w/.-]+\.md", source.read_text()):
            assert (ROOT / named).exists(), f"{source.name}: {named}"
