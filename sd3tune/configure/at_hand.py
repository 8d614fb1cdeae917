"""What the interview knows before it asks: the machine, the models and folders at hand, the login
of the hub."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sd3tune.backends.observe.facts import Facts
from sd3tune.config.config import MODELS as MODEL_SETTINGS
from sd3tune.config.files.reading import project_folder
from sd3tune.configure import image_folder
from sd3tune.configure.image_folder import ImageFolder
from sd3tune.errors import ModelError
from sd3tune.plan.memory import gib
from sd3tune.report.progress import waiting
from sd3tune.sd3 import hub, hub_refusals, models
from sd3tune.sd3.missing_parts import missing_parts, part_sizes
from sd3tune.sd3.variants import Model
from sd3tune.tables.architectures import ARCHITECTURES, DEFAULT
from sd3tune.tables.trackers import TRACKERS

MODEL_MARKS = ("model_index.json", "transformer/config.json")


@dataclass(frozen=True)
class ModelAtHand:
    """A model that may be chosen. source: as the settings name it. download_bytes: of the parts
    that are not on this disk; about."""

    source: str
    model: Model
    download_bytes: int = 0


def at_hand(source: str, find: Callable[[str], Model]) -> ModelAtHand:
    """The model of that name. Raises ModelError."""
    model = find(source)
    sizes = part_sizes(model)
    return ModelAtHand(source, model, 2 * sum(sizes[part] for part in missing_parts(model)))


def find_model(source: str) -> Model:
    """As a run would find it. Raises ModelError."""
    return models.find_whole(models.ModelRequest(source))


@dataclass(frozen=True)
class AtHand:
    """What the answers are about. config: the file that will be written. models: on this disk, then
    the released ones. folders: with images, the fullest first. trackers: installed ones. access:
    why a repository cannot be downloaded now; None: it can."""

    facts: Facts
    config: Path
    models: tuple[ModelAtHand, ...]
    folders: tuple[Path, ...] = ()
    trackers: tuple[str, ...] = ()
    find: Callable[[str], Model] = find_model
    look: Callable[[Path], ImageFolder] = image_folder.look
    access: Callable[[str], str | None] = lambda repository: None

    @property
    def project(self) -> Path:
        """Where relative paths of the files start."""
        return project_folder(self.config)


def seen_here(facts: Facts, config: Path) -> AtHand:
    """What this machine has. Raises ModelError for nothing: what cannot be read is left out."""
    project = project_folder(config)
    return AtHand(
        facts=facts,
        config=config,
        models=tuple(_models(project)),
        folders=tuple(image_folder.folders_with_images(project)),
        trackers=tuple(row.name for row in TRACKERS.rows if _installed(row.library.name)),
        access=access,
    )


def access(repository: str) -> str | None:
    """Why a repository of the hub cannot be downloaded with this login, with what to do; None
    where it can. Asks the hub, for some seconds at most."""
    try:
        with waiting("asking the hub"):
            hub.config(MODEL_SETTINGS[0], repository, "transformer", None)
    except ModelError as e:
        return f"{e}; {e.hint}"
    return None


def login() -> str:
    """Whether there is a token for the hub, for people. The hub is not asked."""
    source = hub_refusals.token_source()
    if source is None:
        return "no login for the hub: `hf auth login` makes one; the released models need it"
    return f"the hub's login is in {source}"


def download(model: ModelAtHand) -> str:
    """What the first run downloads."""
    if not model.download_bytes:
        return "on this disk"
    return f"downloads about {gib(model.download_bytes)}"


def _models(project: Path) -> Iterator[ModelAtHand]:
    for folder in _model_folders(project):
        try:
            yield at_hand(str(folder), find_model)
        except ModelError:  # of another family, or damaged: `plan` says it to whoever names it
            continue
    released = sorted(ARCHITECTURES.rows, key=lambda row: row is not DEFAULT)
    yield from (at_hand(row.repository, find_model) for row in released)


def _model_folders(project: Path) -> list[Path]:
    """Diffusers folders in the project, at most two deep."""
    marks = (f"{depth}{mark}" for depth in ("*/", "*/*/") for mark in MODEL_MARKS)
    found = {p.parents[mark.count("/")] for m in marks if (mark := m.rpartition("*/")[2])
             for p in project.glob(m) if os.access(p, os.R_OK)}  # fmt: skip
    return sorted(found)


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
