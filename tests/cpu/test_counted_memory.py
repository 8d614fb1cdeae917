"""Peak memory counted under fake tensors: beside the formula, beside real tensors, and beside what
was measured on cards."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from sd3tune.backends.decide.limits import LIBRARY_BYTES
from sd3tune.counted import load_data, other_stages
from sd3tune.counted.counting import count as counted_in_child
from sd3tune.counted.counting import kept
from sd3tune.counted.training_step import count
from sd3tune.plan.block_keeping import mixed
from sd3tune.plan.memory import GIB, Load, estimate
from sd3tune.plan.stage_loads import CaptionLoad, LatentLoad, PictureLoad
from sd3tune.plan.stage_peaks import decoding, drawing, tensor_bytes
from sd3tune.sd3.models import find
from sd3tune.sd3.variants import (
    SD3_MEDIUM,
    SD35_LARGE,
    SD35_MEDIUM,
    TEXT_ENCODERS,
    VAE,
    Transformer,
)
from tests.memory_rows import EVERY, ROWS
from tests.plans import MEDIUM, plan

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
SMALL = replace(SD35_MEDIUM, layers=3, dual_layers=1, heads=6, joint_dim=256, positions=64)
WITHOUT_NORM = replace(SD3_MEDIUM, layers=3, heads=6, joint_dim=256, positions=64)


def load(shape: Transformer, vendor: str = "cpu", **settings: Any) -> Load:
    values: dict[str, Any] = {
        "vendor": vendor, "base_dtype": "fp32", "precision": "no_change",
        "trainable_dtype": "fp32", "optimizer": "adamw", "batch": 1, "tokens": 256,
        "text_tokens": 32, "interval": 1, "swapped": 0, "inputs_on_host": False,
        "text_dtype": "fp32", "text_precisions": ("no_change",) * 3, "targets": TARGETS,
        "rank": 16, "dropout": True,
    } | settings  # fmt: skip
    if values.get("full"):
        values |= {"targets": (), "rank": 0, "dropout": False}
    trained = shape.lora_parameters(values["rank"], values["targets"])
    return Load(**values, trained=shape.parameters if values.get("full") else trained)


def by_formula(shape: Transformer, given: Load) -> int:
    return estimate(replace(find(MEDIUM), transformer=shape), given).tensors


BF16 = {"base_dtype": "bf16", "autocast": "bf16"}
RUNS: list[tuple[Transformer, dict[str, Any]]] = [
    (shape, dtypes | settings)
    for shape in (SMALL, WITHOUT_NORM)
    for dtypes in ({}, BF16)
    for settings in (
        {},
        {"interval": 0},
        {"interval": 0, "batch": 2, "dropout": False},
        {"interval": 2, "rank": 64, "accumulation": 2},
        {"full": True, "interval": 0},
    )
]


@pytest.mark.parametrize("shape, settings", [RUNS[0], RUNS[6]])
def test_fake_tensors_count_what_real_ones_allocate(
    shape: Transformer, settings: dict[str, Any]
) -> None:
    given = load(shape, **settings)
    real, fake = count(shape, given, fake=False), count(shape, given)
    assert fake.peak == pytest.approx(real.peak, rel=0.001)
    assert by_formula(shape, given) == pytest.approx(real.peak, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("shape, settings", RUNS)
def test_small_runs_allocate_what_is_counted(shape: Transformer, settings: dict[str, Any]) -> None:
    given = load(shape, **settings)
    real, fake = count(shape, given, fake=False), count(shape, given)
    assert fake.peak == pytest.approx(real.peak, rel=0.03)


# As wide as the released models, with few layers: fake tensors of any size take the same time.
WIDE = [
    replace(SD35_MEDIUM, layers=4, dual_layers=2),
    replace(SD3_MEDIUM, layers=4),
    replace(SD35_LARGE, layers=4),
]
IN_BF16 = {"base_dtype": "bf16", "trainable_dtype": "bf16"}


def combination(seed: int) -> tuple[Transformer, dict[str, Any]]:
    """Settings of one run, drawn at random."""
    draw = random.Random(seed)
    shape, layers = draw.choice(WIDE), 4
    settings: dict[str, Any] = {
        **draw.choice([{}, BF16, BF16, IN_BF16, IN_BF16 | BF16]),
        "vendor": draw.choice(["cuda", "cuda", "rocm", "cpu"]),
        "batch": draw.choice([1, 2, 3]),
        "tokens": draw.choice([1024, 1920, 4096]),
        "text_tokens": draw.choice([77, 154]),
        "optimizer": draw.choice(["adamw", "torch-adam", "torch-adamax"]),
        "ema": draw.random() < 0.3,
        "accumulation": draw.choice([1, 1, 2]),
        "dropout": draw.random() < 0.5,
        "resident": draw.choice([0, 4]),
        "interval": draw.choice([0, 1, 1, 2]),
        "modulations_off": draw.random() < 0.3,
    }
    if settings.get("trainable_dtype") == "bf16":
        settings["optimizer"] = "adamw_bf16"
    if draw.random() < 0.25:
        return shape, settings | {"full": True, "modulations_off": False}
    settings["rank"] = draw.choice([1, 16, 64, 128])
    settings["precision"] = draw.choice(["no_change", "no_change", "int8-quanto", "nf4-bnb"])
    settings["dora"] = settings["precision"] == "no_change" and draw.random() < 0.2
    settings["inputs_on_host"] = settings["interval"] == 1 and draw.random() < 0.3
    if settings["interval"] == 1 and not settings["inputs_on_host"] and draw.random() < 0.4:
        settings["keep"] = mixed(layers, draw.randint(0, layers // 2), draw.randint(0, 1))
    return shape, settings


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_the_formula_agrees_with_the_count_for_settings_drawn_at_random(seed: int) -> None:
    shape, settings = combination(seed)
    given = load(shape, **settings)
    # DoRA in float32, and nf4 weights on a CPU: the formula is up to 5 % too high.
    rough = given.dora or (given.precision == "nf4-bnb" and given.vendor == "cpu")
    near = pytest.approx(count(shape, given).peak, rel=0.05 if rough else 0.03)
    assert by_formula(shape, given) == near, settings


def test_each_difference_of_a_card_is_counted() -> None:
    """Float32 layer norms and dropout's masks, in bytes of one image token and hidden unit."""
    given = load(SMALL, "cuda", **BF16, interval=0, tokens=1024)
    unit = given.tokens * SMALL.hidden
    with_masks, without = (count(SMALL, replace(given, dropout=d)).peak for d in (True, False))
    assert (with_masks - without) / unit == pytest.approx(4 * 4 - 6, abs=0.6)
    on_cpu = count(SMALL, replace(given, vendor="cpu", dropout=False)).peak
    assert without > on_cpu


@pytest.mark.slow
def test_a_count_is_made_in_a_child_and_kept(tmp_path: Any) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    given = load(SMALL, "cuda", **BF16)
    several = replace(given, processes=2)
    captions = CaptionLoad("cuda", "bf16", ("no_change",) * 3, (*TEXT_ENCODERS[:2], 0), 77, 4, 4096)
    assert kept(SMALL, given, environ) is None
    made, without, encoding = counted_in_child(SMALL, [given, several, captions], environ)
    assert made.peak is not None and kept(SMALL, given, environ) == made.peak
    assert encoding.peak is not None and kept(WITHOUT_NORM, captions, environ) == encoding.peak
    assert kept(SMALL, replace(given, rank=32), environ) is None
    assert without.peak is None and "several processes" in without.why


def test_a_load_survives_its_way_to_the_child() -> None:
    given = plan("h200").memory.load
    data = json.loads(json.dumps(load_data.written(SMALL, given)))
    assert load_data.read(data) == (SMALL, given)


@pytest.mark.slow
@pytest.mark.parametrize("model, side, settings, counted, measured", ROWS)
def test_full_size_counts_are_what_an_h200_allocated(
    model: str, side: int, settings: dict[str, Any], counted: float, measured: float | None
) -> None:
    made = plan("h200", model, side=side, **(EVERY | settings))
    found = count(made.model.transformer, made.memory.load).peak
    assert found / GIB == pytest.approx(counted, rel=0.01)
    if measured is not None:
        allocated = (found + LIBRARY_BYTES["cuda"]) / GIB
        assert allocated == pytest.approx(measured, rel=0.02)


CAPTIONS = [
    ("bf16", 154, ("no_change",) * 3),
    ("fp16", 77, ("no_change",) * 3),
    ("bf16", 256, ("no_change", "no_change", "int8-quanto")),
    ("bf16", 154, ("no_change", "no_change", "nf4-bnb")),
    ("bf16", 154, ("int2-quanto",) * 3),
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype, tokens, precisions", CAPTIONS)
def test_the_formula_of_captions_agrees_with_the_count(
    dtype: str, tokens: int, precisions: tuple[str, str, str]
) -> None:
    given = CaptionLoad("cuda", dtype, precisions, TEXT_ENCODERS, tokens, 4, 4096)
    counted = other_stages.captions(given)
    assert tensor_bytes(find(MEDIUM), given) == pytest.approx(counted, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("width, height, batch, dtype", [(1024, 1024, 1, "bf16"),
                                                         (768, 512, 3, "fp32")])  # fmt: skip
def test_the_formula_of_latents_agrees_with_the_count(
    width: int, height: int, batch: int, dtype: str
) -> None:
    given = LatentLoad("cuda", dtype, VAE, width, height, batch)
    assert tensor_bytes(find(MEDIUM), given) == pytest.approx(other_stages.latents(given), rel=0.03)


DRAWN: list[dict[str, Any]] = [
    {**BF16},
    {**BF16, "modulations_off": True},
    {**BF16, "full": True, "ema": True},
    {"base_dtype": "bf16", "trainable_dtype": "bf16"},
    {**BF16, "scores": True},
    {**BF16, "slices": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [SMALL, WITHOUT_NORM])
@pytest.mark.parametrize("settings", DRAWN)
def test_the_formula_of_pictures_agrees_with_the_count(
    shape: Transformer, settings: dict[str, Any]
) -> None:
    training = load(shape, "cuda", tokens=1024, resident=4, **settings)
    given = PictureLoad(training, VAE, "bf16", 768, 768, guided=True)
    model = replace(find(MEDIUM), transformer=shape)
    drawn, decoded = other_stages.pictures(shape, given)
    assert drawing(model, given) == pytest.approx(drawn, rel=0.03)
    assert decoding(model, given) == pytest.approx(decoded, rel=0.03)


def test_loads_of_all_stages_survive_their_way_to_the_child() -> None:
    captions = CaptionLoad("cuda", "bf16", ("no_change",) * 3, TEXT_ENCODERS, 77, 4, 4096)
    images = LatentLoad("cuda", "bf16", VAE, 1024, 768, 4)
    drawn = PictureLoad(load(SMALL), VAE, "bf16", 768, 768, guided=True)
    for given in (captions, images, drawn):
        assert load_data.read(json.loads(json.dumps(load_data.written(SMALL, given))))[1] == given
