"""A run as every engine needs it: image, card, sizes and the command. Refuses what no engine here
can start: an Apple chip or a CPU, several machines, and paths outside the project."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sd3tune.backends.decide.chips import Chip
from sd3tune.cloud.image_vendors import IMAGE_VENDORS, ImageVendor
from sd3tune.config.config import Config
from sd3tune.config.files.reading import project_folder
from sd3tune.config.secret_values import SecretValues
from sd3tune.errors import ConfigError, ErrorAndHint, HardwareError, PlanError
from sd3tune.plan.overview import Overview
from sd3tune.prepare import Prepared
from sd3tune.sd3.missing_parts import part_sizes

WORKSPACE = "/workspace"  # of the images: the project, and where they start
REGISTRY = "registry.example.com/sd3tune"  # stands for the user's own: no image is published
GIB = 2**30
SHM_GIB = 16  # /dev/shm: the loader's workers pass batches through it
CPUS_PER_CARD = 8  # decode images for one card; a choice, not a measurement
CPUS_LEAST = 16
HOST_STEP_GIB, DISK_STEP_GIB = 16, 50  # what sizes are rounded up to
SPARE_DISK_GIB = 60  # the unpacked image, the system, logs and pictures; a choice
ROLLING = "checkpointing_rolling_steps"
ROLLING_STEPS = 50  # a machine may go without a warning: at most this many steps are lost
PATHS = ("output_dir", "data_backend_config", "user_prompt_library", "init_lora", "lycoris_config")


@dataclass(frozen=True)
class Project:
    """The folder that the run is in, and what of it a machine must have."""

    folder: Path
    inputs: tuple[str, ...]  # folders below it that the run reads, as "config"
    output: str  # the folder below it that the run writes


@dataclass(frozen=True)
class CloudJob:
    """A run before it has a machine."""

    name: str  # lower case, digits and dashes: every engine takes it
    image: str
    vendor: ImageVendor
    chip: Chip
    cards: int  # one process for each
    cpus: int
    host_gib: int
    disk_gib: int
    words: tuple[str, ...]  # after `sd3tune-entrypoint`
    project: Project

    @property
    def command(self) -> str:
        """The words as one shell command."""
        return shlex.join(("sd3tune-entrypoint", *self.words))


def job_of(
    prepared: Prepared, seen: Overview, chip: Chip, written: Path, overrides: Sequence[str]
) -> CloudJob:
    """The run of the configuration `written`. image: the default of the card's vendor; replace it
    with `dataclasses.replace`. Raises ConfigError, PlanError and HardwareError."""
    vendor = _vendor(chip)
    _refuse_machines(prepared.config)
    _refuse_typed_paths_and_secrets(overrides)
    project = project_of(prepared, written)
    cards = prepared.plan.processes.local_size
    config = (Path(WORKSPACE) / relative(written, project.folder)).as_posix()
    rolling = [f"{ROLLING}={ROLLING_STEPS}"] if not _asked_for(prepared.config) else []
    weights = 2 * sum(part_sizes(prepared.plan.model).values())  # in 16 bits, all downloaded
    disk = weights + seen.disk.total + _local_bytes(prepared)
    return CloudJob(
        name=name_of(project.folder),
        image=f"{REGISTRY}:{vendor.tag}",
        vendor=vendor,
        chip=chip,
        cards=cards,
        cpus=max(CPUS_LEAST, CPUS_PER_CARD * cards),
        host_gib=_up(seen.host_bytes * cards / GIB + SHM_GIB, HOST_STEP_GIB),
        disk_gib=_up(disk / GIB + SPARE_DISK_GIB, DISK_STEP_GIB),
        words=("train", config, *rolling, *overrides),
        project=project,
    )


def project_of(prepared: Prepared, written: Path) -> Project:
    """The folders of the run below its project folder. Raises ConfigError naming every path that
    is somewhere else, where the machine would not have it."""
    folder = project_folder(written).resolve()
    outside = [
        ErrorAndHint(
            f"{key}: `{path}` is outside the project folder `{folder}`, and the machine would not "
            "have it",
            "move it into the project folder, and write a relative path",
        )
        for key, path in _paths(prepared, written)
        if not path.resolve().is_relative_to(folder)
    ]
    if outside:
        raise ConfigError.of(outside)
    read = [relative(written, folder).parent]
    read += [relative(p, folder) for key, p in _paths(prepared, written) if "instance" in key]
    inputs = sorted({p.as_posix() for p in read} - {"."})
    return Project(folder, tuple(inputs), relative(prepared.config.output_dir, folder).as_posix())


def name_of(folder: Path) -> str:
    """A name that Kubernetes, SkyPilot and dstack take: lower case, digits and dashes, at most 40
    characters. Beginning with `sd3tune-`."""
    word = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")
    return f"sd3tune-{word}"[:40].strip("-") if word else "sd3tune"


def relative(path: Path, folder: Path) -> Path:
    """The path below `folder`."""
    return path.resolve().relative_to(folder.resolve())


def _paths(prepared: Prepared, written: Path) -> Iterator[tuple[str, Path]]:
    config, datasets = prepared.config, prepared.datasets
    yield "the configuration", written
    for key in PATHS:
        if (path := getattr(config, key)) is not None:
            yield key, Path(path)
    model = Path(config.pretrained_model_name_or_path or "")
    if config.pretrained_model_name_or_path and model.exists():
        yield "pretrained_model_name_or_path", model
    for each in (*datasets.all, *datasets.masks.values()):
        if each.instance_data_dir is not None:
            yield f"dataset `{each.id}`, instance_data_dir", each.instance_data_dir
    for images in datasets.all:
        yield f"dataset `{images.id}`, cache_dir_vae", images.cache_dir_vae
    for text in (datasets.text, *datasets.texts.values()):
        yield f"dataset `{text.id}`, cache_dir", text.cache_dir


def _vendor(chip: Chip) -> ImageVendor:
    vendor = IMAGE_VENDORS.get(chip.vendor)
    if vendor is None:
        raise HardwareError(
            f"there is no container image for {chip.name}: images exist for NVIDIA and AMD",
            hint="name another --card; on a Mac, `sd3tune train` runs without a container",
        )
    return vendor


def _refuse_machines(config: Config) -> None:
    if config.num_machines > 1:
        raise PlanError(
            f"`num_machines={config.num_machines}`: one machine is written, with num_processes "
            "cards",
            hint="examples/cluster has specifications of two machines, for SkyPilot and Kubernetes",
        )


def _refuse_typed_paths_and_secrets(overrides: Sequence[str]) -> None:
    """A typed path starts at this working directory, which the machine does not have; and what is
    typed stands in the specification."""
    for word in overrides:
        key = word.partition("=")[0].lstrip("-")
        if key in PATHS:
            raise ConfigError(
                f"`{word}`: a path on the command line means nothing on another machine",
                hint=f"write `{key}` into the configuration file",
            )
        if SecretValues(()).text(word) != word:
            raise ConfigError(
                f"`{key}` has a secret in it, and every word stands in the specification",
                hint="write it into the configuration file as `{env:NAME}`, and give NAME to the "
                "machine as HF_TOKEN is given",
            )


def _asked_for(config: Config) -> bool:
    return bool(config.checkpointing_rolling_steps)


def _local_bytes(prepared: Prepared) -> int:
    """Bytes of the images in folders of this machine."""
    samples = [s for d in prepared.discoveries.values() for s in d.samples]
    files = (Path(s.path) for s in samples)
    return sum(f.stat().st_size for f in files if f.is_file())


def _up(value: float, step: int) -> int:
    return -int(-value // step) * step
