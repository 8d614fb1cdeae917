"""One row per thing: a row that is added to a table is everywhere, and nothing else is needed."""

import json
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from PIL import Image

from sd3tune.backends.decide import chips
from sd3tune.backends.decide.decisions import capabilities, decide_all
from sd3tune.backends.decide.probes import probes
from sd3tune.backends.decide.rules import RULES, Request
from sd3tune.config.config import Config
from sd3tune.config.datasets.listing import Datasets, load_datasets
from sd3tune.config.document import document
from sd3tune.data.discover import discover
from sd3tune.data.sources import Source, source_of
from sd3tune.errors import ConfigError, PlanError
from sd3tune.formats.file_metadata import modelspec
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.learning_rate import LearningRate
from sd3tune.plan.plan import Plan
from sd3tune.plan.resolve import resolve
from sd3tune.sd3.models import find
from sd3tune.sd3.variants import kind
from sd3tune.tables import loss_types, lr_schedulers, needs, optimizers
from sd3tune.tables.architectures import ARCHITECTURES, Architecture
from sd3tune.tables.dataset_types import DATASET_TYPES, DatasetType
from sd3tune.tables.libraries import LIBRARIES, Library
from sd3tune.tables.loss_types import LOSS_TYPES, LossType
from sd3tune.tables.loss_weightings import LOSS_WEIGHTINGS
from sd3tune.tables.lr_schedulers import LR_SCHEDULERS, LrScheduler
from sd3tune.tables.optimizers import OPTIMIZERS, Optimizer
from sd3tune.tables.schemes import SCHEMES, Scheme
from sd3tune.tables.storages import STORAGES, Storage
from sd3tune.tables.table import Table
from tests.samples import many

MEDIUM = "stabilityai/stable-diffusion-3.5-medium"
SAMPLES = many({(1024, 1024): 20})

PLAIN = Optimizer(
    "made-up-sgd", "torch.optim:SGD", 3.0, "momentum", "an optimizer that a test made up",
    fixed={"momentum": 0.25}, aliases=("made-up-gd",),
    needs=(needs.never_on("rocm", "nobody made it up there"), needs.WHOLE_WEIGHTS),
)  # fmt: skip
HALF = Scheme(
    "made-up-int8", 0.125, "a bit a weight", (needs.sm_at_least(90, "a bit has no kernel"),),
    library="nothing", quantise="sd3tune.quant.quanto:quantise",
    restore="sd3tune.quant.quanto:restore", weights="qint8", tolerance=0.1,
)  # fmt: skip


def config(**settings: Any) -> Config:
    values = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10} | settings
    return Config(**values)


def plan(chip: str, **settings: Any) -> Plan:
    return resolve(
        RunInputs(config(**settings), chips.facts(chips.chip(chip)), find(MEDIUM), SAMPLES)
    )


@pytest.fixture
def optimizer() -> Iterator[None]:
    with OPTIMIZERS.extended(PLAIN):
        yield


@pytest.fixture
def scheme() -> Iterator[None]:
    with SCHEMES.extended(HALF):
        yield


# Optimizers


def test_an_added_optimizer_is_taken_with_its_options_and_its_other_name(optimizer: None) -> None:
    for name in ("made-up-sgd", "made-up-gd"):
        taken = config(optimizer=name, optimizer_config="momentum=0.5")
        assert taken.optimizer == name and taken.optimizer_options == {"momentum": 0.5}
    with pytest.raises(
        ValueError, match="`optimizer_config=eps` has no effect with optimizer=made"
    ):
        config(optimizer="made-up-sgd", optimizer_config="eps=1")


def test_an_added_optimizer_is_suggested_and_documented(optimizer: None) -> None:
    with pytest.raises(ValueError, match="did you mean `made-up-sgd`"):
        config(optimizer="made-up-sdg")
    assert "`made-up-sgd`" in document()
    row = "| `made-up-sgd` | torch.optim.SGD | 3 | an optimizer that a test made up |"
    assert row in optimizers.markdown()


def test_an_added_optimizer_is_an_option_with_its_rules_and_its_bytes(optimizer: None) -> None:
    assert capabilities(chips.facts(chips.chip("mi300x")))["optimizer"]["made-up-sgd"][1] == (
        "nobody made it up there",
    )
    with pytest.raises(PlanError, match="split over processes"):
        sharded = Request(optimizer="made-up-sgd", sharded=True)
        decide_all(chips.facts(chips.chip("h200")), sharded)
    made = plan("h200", optimizer="made-up-gd")
    assert made.optimizer.name.value == "made-up-sgd"
    assert "a test made up" in made.optimizer.name.reason
    ours, adamw = made.memory.estimate.optimizer, plan("h200").memory.estimate.optimizer
    assert ours == pytest.approx(adamw * 3 / 8, rel=1e-6)


# Quantisation schemes


def test_an_added_scheme_is_taken_documented_and_planned(scheme: None) -> None:
    assert config(base_model_precision="made-up-int8").base_model_precision == "made-up-int8"
    lines = document().splitlines()
    told = [line for line in lines if "_precision`" in line and "`made-up-int8`" in line]
    assert len(told) == 4  # the transformer and three text encoders
    made = plan("h200", base_model_precision="made-up-int8")
    full, shape = plan("h200", base_model_precision="no_change"), made.model.transformer
    # bf16 is two bytes
    saved = full.memory.estimate.weights - made.memory.estimate.weights
    assert saved == pytest.approx(shape.quantisable * (2 - 0.125), rel=1e-6)


def test_an_added_scheme_is_refused_where_its_needs_are_not_met(scheme: None) -> None:
    with pytest.raises(PlanError, match="a bit has no kernel: needs sm_90 or newer"):
        plan("a100-80gb", base_model_precision="made-up-int8")
    with pytest.raises(PlanError, match="weights that are trained cannot be quantised"):
        plan("h200", base_model_precision="made-up-int8", model_type="full")


# Libraries


def test_an_added_library_is_assumed_of_chips_and_probed() -> None:
    ours = Library("made-up", "json: loads", "2", assumed="1.0", on=("cuda",))
    needy = Optimizer("made-up-adam", "json:loads", 1.0, "", "made up", needs=(ours.needed(),))
    with LIBRARIES.extended(ours), OPTIMIZERS.extended(needy):
        assert probes()["import_made-up"].observer == "imports"
        assert chips.facts(chips.chip("h200")).packages["made-up"] == "1.0"
        assert "made-up" not in chips.facts(chips.chip("mi300x")).packages
        table = capabilities(chips.facts(chips.chip("h200")))["optimizer"]
        assert table["made-up-adam"][1] == ("needs made-up 2 or newer, 1.0 is installed",)


# Losses


def test_an_added_loss_is_taken_and_documented() -> None:
    cubic = LossType("made-up-l3", "sd3tune.sd3.distances:l2", "cube of the error", "|d|³")
    with LOSS_TYPES.extended(cubic):
        assert config(loss_type="made-up-l3").loss_type == "made-up-l3"
        assert "`made-up-l3`: cube of the error" in document()
        assert "| `made-up-l3` | |d|³ |" in loss_types.markdown()
    with pytest.raises(ValueError, match=f"must be one of {LOSS_TYPES.listed()}"):
        config(loss_type="made-up-l3")


# Learning rates


def steep(rate: LearningRate, done: float) -> float:
    return (1 - done) ** 3


def test_an_added_schedule_is_taken_documented_and_followed() -> None:
    ours = LrScheduler("made-up-cubic", f"{__name__}:steep", "falls steeply", "peak (1 - p)³")
    with LR_SCHEDULERS.extended(ours):
        made = plan("h200", lr_scheduler="made-up-cubic", learning_rate=1e-3)
        assert made.optimizer.rate.at(5) == pytest.approx(1e-3 / 8)
        assert "`made-up-cubic`: falls steeply" in document()
        assert "| `made-up-cubic` | peak (1 - p)³ |" in lr_schedulers.markdown()


# Storages


class Shelf(Source):
    """Two pictures, drawn when they are asked for: a storage that a program might bring."""

    def names(self) -> list[str]:
        return ["a.png", "b.png"]

    def where(self, name: str) -> str:
        return f"shelf:{name}"

    def stamp(self, name: str) -> str:
        return "never changes"

    def open(self, name: str) -> BinaryIO:
        made = BytesIO()
        Image.new("RGB", (96, 64)).save(made, "PNG")
        return made


def open_shelf(dataset: object, tell: object, own: object) -> Source:
    return Shelf()


SHELF = Storage(
    "shelf", "pictures that a test draws", f"{__name__}:open_shelf", "dataset_name",
    ("dataset_name",), "shelf {d.dataset_name}", captions="filename", without=("textfile",),
)  # fmt: skip


def entry(**more: Any) -> dict[str, Any]:
    size = {"resolution": 64, "resolution_type": "pixel_area"}
    return {"id": "d", "type": "shelf", "dataset_name": "top"} | size | more


def listed(tmp_path: Path, *entries: dict[str, Any]) -> Datasets:
    path = tmp_path / "multidatabackend.json"
    path.write_text(json.dumps(entries))
    return load_datasets(path, config())


def test_an_added_storage_is_listed_opened_and_documented(tmp_path: Path) -> None:
    with STORAGES.extended(SHELF):
        (dataset,) = listed(tmp_path, entry(cache_dir_vae=str(tmp_path))).images
        samples = discover(dataset, source_of(dataset)).samples
        assert "`shelf`: pictures that a test draws" in document()
    assert [(s.path, s.captions) for s in samples] == [
        ("shelf:a.png", ("a",)),
        ("shelf:b.png", ("b",)),
    ]
    assert SHELF.place(dataset) == "shelf top"


@pytest.mark.parametrize(
    "more, said",
    [
        ({"dataset_name": None}, "type=shelf needs dataset_name"),
        ({"instance_data_dir": "x"}, "instance_data_dir belongs to type=local or csv, this"),
        ({"caption_strategy": "textfile"}, "caption_strategy=textfile needs files, type=shelf"),
    ],
)
def test_an_added_storage_has_its_keys_and_its_limits(
    more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with STORAGES.extended(SHELF), pytest.raises(ConfigError, match=re.escape(said)):
        listed(tmp_path, entry(**more))


# Dataset types


def test_an_added_dataset_type_has_its_keys_its_defaults_and_its_use(tmp_path: Path) -> None:
    portraits = DatasetType(
        "portraits", "train", "faces to train on",
        "sd3tune.config.datasets.image_dataset:ImageDataset", "images", "an image dataset",
        storages=("shelf",), why_only="portraits stand on shelves",
        inherited=("resolution", "resolution_type"), folders={"cache_dir_vae": "faces/{id}"},
    )  # fmt: skip
    with STORAGES.extended(SHELF), DATASET_TYPES.extended(portraits):
        plain = entry(id="e"), entry(dataset_type="portraits")
        images = listed(tmp_path, *plain).images
        assert [d.dataset_type for d in images] == ["image", "portraits"] and images[1].trained
        assert str(images[1].cache_dir_vae).endswith("/o/cache/faces/d")
        assert "`portraits`: faces to train on" in document()
        with pytest.raises(ConfigError, match="portraits stand on shelves"):
            listed(tmp_path, entry(dataset_type="portraits", type="local"))
        with pytest.raises(ConfigError) as e:
            listed(tmp_path, entry(dataset_type="portrait"))
        assert "eval, conditioning, text_embeds, portraits" in e.value.hint


# Architectures


def test_an_added_architecture_is_named_found_described_and_planned() -> None:
    small = Architecture(
        "sd3.5-small", ("small",), "made up, 0.3 B parameters", "nobody/sd3.5-small",
        "stable-diffusion-v3.5-small",
        {"head_dim": 64, "joint_dim": 4096, "pooled_dim": 2048, "layers": 12, "heads": 12,
         "dual_layers": 0, "qk_norm": True, "positions": 192},
        {"num_layers": 2, "qk_norm": "rms_norm"},
    )  # fmt: skip
    with ARCHITECTURES.extended(small):
        assert config(model_flavour="small").model_flavour == "small"
        assert "`sd3.5-small`: made up" in document()
        model = find("nobody/sd3.5-small")
        assert model.name == "sd3.5-small" and model.transformer.layers == 12
        stamped = modelspec(model.name, title="t", resolution=64)
        assert stamped["modelspec.architecture"] == "stable-diffusion-v3.5-small/lora"
        made = resolve(RunInputs(config(), chips.facts(chips.chip("h200")), model, SAMPLES))
        assert made.memory.estimate.weights < plan("h200").memory.estimate.weights / 3
        assert kind(model.transformer) == "sd3.5-small"
    with pytest.raises(
        ValueError, match=r"must be one of 'sd3-medium', 'sd3\.5-medium', 'sd3\.5-la"
    ):
        config(model_flavour="small")


# All tables


TABLES: dict[str, Table[Any]] = {
    "libraries": LIBRARIES,
    "optimizers": OPTIMIZERS,
    "schemes": SCHEMES,
    "loss types": LOSS_TYPES,
    "loss weightings": LOSS_WEIGHTINGS,
    "learning rates": LR_SCHEDULERS,
    "storages": STORAGES,
    "dataset types": DATASET_TYPES,
    "architectures": ARCHITECTURES,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_row_that_is_there_cannot_be_added_again_and_goes_when_it_should(name: str) -> None:
    table = TABLES[name]
    before = list(table)
    first = table[before[0]]
    with pytest.raises(ValueError, match=f"{first.name}.*exists"), table.extended(first):
        pass
    assert list(table) == before


def test_a_table_is_as_it_was_after_a_row_was_added(optimizer: None) -> None:
    assert "made-up-sgd" in OPTIMIZERS
    with pytest.raises(ZeroDivisionError), SCHEMES.extended(HALF):
        assert "made-up-int8" in SCHEMES
        raise ZeroDivisionError
    assert "made-up-int8" not in SCHEMES


def test_every_need_of_every_row_has_a_rule() -> None:
    asked = {
        need.kind for table in (OPTIMIZERS, SCHEMES) for row in table.rows for need in row.needs
    }
    assert asked == set(RULES)


@pytest.mark.parametrize("name", ["optimizers", "schemes"])
def test_names_that_are_refused_name_one_that_exists(name: str) -> None:
    table = TABLES[name]
    for old, words in table.refused.items():
        with pytest.raises(ValueError, match=re.escape(words)):
            table.check(old)
        assert any(re.search(rf"(?<![\w-]){re.escape(new)}(?![\w-])", words) for new in table), old
