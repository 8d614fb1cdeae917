"""Documents made from the code are up to date, and what the documents name exists."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sd3tune.config.config import Config
from sd3tune.config.docstrings import docstring
from sd3tune.config.document import document
from sd3tune.config.name_table import name_table
from sd3tune.config.run_files import load_run
from sd3tune.errors import ConfigError
from sd3tune.tables import dialects, loss_types, loss_weightings, lr_schedulers, optimizers
from tests.projects import IMAGES, TEXT, Project

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
HISTORY = [ROOT / "LOG.md", ROOT / "CHANGELOG.md"]  # name files as they were at the time
FOLDERS = "sd3tune|tests|docs|scripts|examples|docker|benchmarks"
# Paths under the repository, and those under the package that are written without `sd3tune/`.
NAMED = re.compile(rf"`((?:{FOLDERS})/[\w./-]*|[\w-]+/[\w/-]+\.py)`")
OF_OTHERS = {  # files of Python, PyTorch, diffusers and SageAttention that the code names
    "tokenize.py", "site.py", "torch/version.py", "version.py", "loaders/lora_base.py", "core.py",
    "sd3_impls.py", "fine_tune.py", "flux_train.py", "flux_train_network.py",
    "lumina_train_network.py", "sd3_train.py", "sd3_train_network.py", "sdxl_train.py",
    "sdxl_train_network.py", "train_db.py", "train_dreambooth_lora_sd3.py",
    "train_dreambooth_sd3.py", "train_network.py", "sky/utils/gpu_names.py",
    "gpuhunt/_internal/constraints.py",
}  # fmt: skip
MODULE = re.compile(r"(?<!\.)\bsd3tune(?:\.[a-z]\w*)+\b(?!/)")


def compare(path: Path, made: str, request: pytest.FixtureRequest) -> None:
    """The page must be as the code makes it; with --update-golden it is written."""
    if request.config.getoption("--update-golden"):
        path.write_text(made)
    assert path.read_text() == made, "pytest --update-golden tests/pure/test_documents.py"


def test_the_reference_of_settings_is_current(request: pytest.FixtureRequest) -> None:
    path = ROOT / "docs" / "reference" / "settings.md"
    compare(path, document(), request)


def test_the_table_of_names_is_current(request: pytest.FixtureRequest) -> None:
    compare(ROOT / "docs" / "reference" / "names.md", name_table(), request)


@pytest.mark.parametrize(
    "page, header, rows",
    [
        ("concepts/optimisation.md", "| name | class | bytes | about |", optimizers.markdown),
        ("concepts/optimisation.md", "| `lr_scheduler` | rate after warm-up |",
         lr_schedulers.markdown),
        ("concepts/flow.md", "| `loss_type` | loss |", loss_types.markdown),
        ("concepts/flow.md", "| `loss_weighting` | factor |", loss_weightings.markdown),
        ("guides/adapters.md", "| program | use | remarks | cannot hold |", dialects.markdown),
    ],
)  # fmt: skip
def test_tables_of_the_documents_are_current(
    page: str, header: str, rows: Callable[[], str], request: pytest.FixtureRequest
) -> None:
    path = ROOT / "docs" / page
    before, _, table = path.read_text().partition(f"{header}\n")
    line, _, below = table.partition("\n")
    assert re.fullmatch(r"[|-]+", line), f"{page} has no table {header}"
    after = re.sub(r"\A(\|.*\n)*", "", below)
    compare(path, f"{before}{header}\n{line}\n{rows()}{after}", request)


def test_every_setting_is_explained() -> None:
    assert all(docstring(Config, name) for name in Config.model_fields)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", [*PAGES, *HISTORY], ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^):]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    for named in NAMED.findall(text):
        if "NAME" not in named and not named.startswith("config/"):  # a user's own files
            assert (ROOT / named).exists() or (ROOT / "sd3tune" / named).exists(), named
    for module in MODULE.findall(text):
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), module


def test_the_tour_shows_the_rows_that_the_layer_test_checks() -> None:
    layers = ast.parse((ROOT / "tests" / "pure" / "test_layers.py").read_text())
    (rows,) = (ast.literal_eval(node.value) for node in layers.body if isinstance(node, ast.Assign)
               and ast.unparse(node.targets[0]) == "ROWS")  # fmt: skip
    section = (ROOT / "docs" / "tour.md").read_text().split("## Rooms and rows")[1].split("## ")[0]
    shown: list[set[str]] = []
    for number, rooms in re.findall(r"^\| (\d*) ?\| (`.*?) \|", section, re.M):
        names = set(re.findall(r"`(\w+)(?:/|\.py)`", rooms))
        shown = [*shown, names] if number else [*shown[:-1], shown[-1] | names]
    assert shown == [set(row) for row in rows[:-1]]  # the last row is __main__


def test_files_that_the_code_names_exist() -> None:
    sources = [str(path) for path in (ROOT / "sd3tune").rglob("*.py")]
    tests = [str(path) for path in (ROOT / "tests").rglob("*.py")]
    for source in sources:
        for named in re.findall(r"(?<![\w./{])(?:[\w-]+/)*[\w-]+\.py\b", Path(source).read_text()):
            found = any(path.endswith(f"/{named}") for path in sources + tests)
            assert found or named in OF_OTHERS, f"{source}: {named}"


def test_documents_that_the_code_names_exist_and_have_the_named_section() -> None:
    cited = re.compile(r"(docs/[\w/.-]+\.md)(?:, \"([^\"]+)\")?")
    for source in (ROOT / "sd3tune").rglob("*.py"):
        text = re.sub(r"\s*\n\s*#?\s*", " ", source.read_text())  # a heading may be split
        assert not re.search(r"\.md (?:note )?\d", text), f"{source}: cite a heading, not a number"
        for page, heading in cited.findall(text):
            assert (ROOT / page).exists(), f"{source}: {page}"
            if heading:
                assert f"## {heading}\n" in (ROOT / page).read_text(), f"{source}: {heading}"


def test_every_page_for_readers_is_linked_from_the_readme_or_a_page_it_links() -> None:
    reached, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        reached.add(page)
        targets = re.findall(r"\]\(([^):#]+)(?:#[\w-]*)?\)", page.read_text())
        linked = {(page.parent / target).resolve() for target in targets}
        linked |= {f for folder in linked if folder.is_dir() for f in folder.glob("*.md")}
        left += [p for p in linked - reached if p.suffix == ".md" and p not in left]
    assert set(PAGES) - reached == set()


def test_settings_that_are_called_required_are_refused_when_they_are_left_out(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path)
    table = {"path": "t.csv", "filename_column": "f", "caption_column": "c"}
    project.write("photos/t.csv", "f,c\na_red_wall.png,x\n")
    whole = IMAGES | {"caption_strategy": "csv", "csv": table | {"path": "photos/t.csv"}}
    project.datasets(whole, TEXT)
    load_run(tmp_path / "config/config.json", ())
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    required = set(re.findall(r"^\| `(\w+)` \| required", page, re.M))
    assert required == {"output_dir", "id", "path", "webhook_type"}
    project.config(output_dir=...)
    refused(project, "output_dir")
    project.config(webhook_config={"callback_url": "http://h"})
    refused(project, "webhook_type")
    project.config()
    project.datasets({k: v for k, v in whole.items() if k != "id"}, TEXT)
    refused(project, "id")
    project.datasets(whole | {"csv": {k: v for k, v in table.items() if k != "path"}}, TEXT)
    refused(project, "path")


def refused(project: Project, setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"\b{setting}\b"):
        load_run(project.root / "config/config.json", ())
