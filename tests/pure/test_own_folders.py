"""A run does not train on what it writes: its folders are left out of a dataset, and said."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sd3tune import cli
from sd3tune.data.folder import Folder
from sd3tune.dataset_inspection import inspect
from sd3tune.discovered import Discovered
from sd3tune.errors import ConfigError
from tests.projects import IMAGES, TEXT, Project

Look = Callable[..., Discovered]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def look(project: Project) -> Look:
    def go(*words: str) -> Discovered:
        seen = inspect(project.root / "config" / "config.json", words, decode=False)
        return Discovered(seen.found.config, seen.found.datasets, seen.found.sources,
                     seen.found.discoveries)  # fmt: skip

    return go


def picture(folder: Path, name: str = "step_2_cat.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (640, 480)).save(folder / name)


def named(found: Discovered) -> list[str]:
    return [s.name for s in found.samples]


SPELLINGS = ["photos/output", "photos/sub/../output", "link/output", "photos/link"]


@pytest.mark.parametrize("output", SPELLINGS)
def test_an_output_folder_inside_a_dataset_is_left_out_and_said_once(
    output: str, project: Project, look: Look
) -> None:
    photos = project.root / "photos"
    picture(photos / "output" / "validation_images")
    picture(photos / "output", "contact_sheet.png")
    picture(photos / "sub", "kept.png")
    (project.root / "link").symlink_to(photos)
    if output == "photos/link":
        (photos / "output").rename(project.root / "real")
        (photos / "link").symlink_to(project.root / "real")
    project.config(output_dir=output)
    found = look()
    assert named(found) == ["a_red_wall.png", "sub/kept.png"]
    seen = inspect(project.root / "config" / "config.json", (), decode=False)
    assert [note for note in seen.notes if "is left out" in note] == [
        f"dataset `photos`: {photos / ('link' if output == 'photos/link' else 'output')} is left "
        "out: a run writes there"
    ]


def test_caches_inside_a_dataset_are_left_out(project: Project, look: Look) -> None:
    photos = project.root / "photos"
    for folder in ("vae/fetched", "text"):
        picture(photos / folder)
    project.datasets(IMAGES | {"cache_dir_vae": "photos/vae"}, TEXT | {"cache_dir": "photos/text"})
    assert named(look()) == ["a_red_wall.png"]


def test_the_output_of_another_run_inside_a_dataset_is_left_out(
    project: Project, look: Look
) -> None:
    other = project.root / "photos" / "other"
    picture(other / "validation_images")
    (other / ".sd3tune.lock").touch()
    assert named(look()) == ["a_red_wall.png"]


def test_a_dataset_inside_output_dir_is_trained_on(project: Project, look: Look) -> None:
    picture(project.root / "output" / "photos", "mine.png")
    (project.root / "output" / ".sd3tune.lock").touch()
    project.image(instance_data_dir="output/photos")
    assert named(look()) == ["mine.png"]


@pytest.mark.parametrize(
    "folder",
    ["output", "output/validation_images", "output/../output", "output/validation_images/ema",
     "output/benchmarks"],
)  # fmt: skip
def test_a_dataset_that_is_the_output_itself_is_refused(
    folder: str, project: Project, look: Look
) -> None:
    picture(project.root / "output" / "validation_images" / "ema")
    picture(project.root / "output" / "benchmarks" / "base_model")
    project.image(instance_data_dir=folder)
    with pytest.raises(ConfigError, match="its own pictures") as refused:
        look()
    assert "dataset `photos`" in str(refused.value) and "output_dir" in refused.value.hint


def test_a_folder_that_appears_twice_by_links_is_left_out_both_times(tmp_path: Path) -> None:
    picture(tmp_path / "d" / "output")
    (tmp_path / "d" / "again").symlink_to(tmp_path / "d" / "output")
    source = Folder(tmp_path / "d", own=[tmp_path / "d" / "output"])
    assert source.names() == []


def test_a_contact_sheet_is_not_drawn_into_a_dataset(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = project.root / "photos" / "sheet.png"
    words = ["dataset", str(project.root / "config" / "config.json"), "--sheet", str(sheet)]
    monkeypatch.setattr("sys.argv", ["sd3tune", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and f"error: `--sheet {sheet}` lies in dataset `photos`" in said
    assert not sheet.exists()
