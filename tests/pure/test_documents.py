"""Documents made from the code are up to date, and links inside the repository lead somewhere."""

import re
from pathlib import Path

from sd3tune.config.config import Config
from sd3tune.config.document import document
from sd3tune.tables import loss_types, optimizers

ROOT = Path(__file__).parents[2]


def test_the_reference_of_settings_is_current() -> None:
    path = ROOT / "docs" / "reference" / "settings.md"
    assert path.read_text() == document(), "python -m sd3tune.config.document > " + str(path)


def test_the_table_of_optimizers_is_current() -> None:
    page = (ROOT / "docs" / "concepts" / "optimisation.md").read_text()
    assert optimizers.markdown() in page, "python -m sd3tune.tables.optimizers"


def test_the_table_of_losses_is_current() -> None:
    page = (ROOT / "docs" / "concepts" / "flow.md").read_text()
    assert f"| `loss_type` | |\n|-|-|\n{loss_types.markdown()}\n" in page


def test_every_setting_is_explained() -> None:
    assert all(field.description for field in Config.model_fields.values())


def test_every_setting_has_a_test_and_the_list_of_them_is_current() -> None:
    from tests import evidence

    assert [name for name, found in evidence.evidence().items() if not found] == []
    path = ROOT / "docs" / "reference" / "evidence.md"
    assert path.read_text() == evidence.document(), "python -m tests.evidence > " + str(path)


def test_links_and_named_files_exist() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for source in (ROOT / "sd3tune").rglob("*.py"):
        for named in re.findall(r"docs/[\w/.-]+\.md", source.read_text()):
            assert (ROOT / named).exists(), f"{source.name}: {named}"
