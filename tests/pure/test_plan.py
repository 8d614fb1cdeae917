"""Plans as pure functions: memory by arithmetic, steps, batch sizes, schedules."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd3tune import devices, preflight
from sd3tune.backends.decide import chips
from sd3tune.backends.observe.facts import Problem
from sd3tune.config.config import Config
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.errors import ConfigError, HardwareError, PlanError
from sd3tune.plan.describe import decisions, describe
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.memory import GIB, Load, stored
from sd3tune.plan.optimisation import scaled_rate
from sd3tune.plan.resolve import resolve
from sd3tune.prepare import prepare_run
from sd3tune.processes.environment import Processes
from sd3tune.sd3.models import find
from sd3tune.sd3.variants import SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM, Transformer
from tests.plans import LARGE, MEDIUM, plan, samples

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    "shape, bf16, int8, int4, int2, nf4",
    [
        (SD3_MEDIUM, 3.78, 2.53, 1.95, 1.64, 1.93),
        (SD35_MEDIUM, 4.18, 2.82, 2.18, 1.84, 2.16),
        (SD35_LARGE, 15.0, 10.0, 7.7, 6.5, 7.6),
    ],
    ids=["sd3-medium", "sd3.5-medium", "sd3.5-large"],
)
def test_weights_weigh_what_was_measured(shape, bf16, int8, int4, int2, nf4) -> None:  # type: ignore[no-untyped-def]
    """Measured: storage of quanto's and bitsandbytes' own tensors (docs/reference/memory.md)."""
    want = {"no_change": bf16, "int8-quanto": int8, "int4-quanto": int4, "int2-quanto": int2,
            "nf4-bnb": nf4}  # fmt: skip
    for precision, gib in want.items():
        got = stored(shape.parameters, shape.quantisable, "bf16", precision) / GIB
        assert got == pytest.approx(gib, rel=0.025), precision


def test_a_card_that_fits_keeps_full_precision_and_the_default_batch() -> None:
    made = plan("h200", LARGE)
    assert made.precision.transformer.value == "no_change" and made.batch_size == 4
    assert made.memory.offload.value == "none"


@pytest.mark.parametrize(
    "chip, model, precision",
    [
        ("rtx4090", MEDIUM, "no_change"),
        ("rtx4090", LARGE, "no_change"),
        ("rtx3060", MEDIUM, "no_change"),
        ("rtx4080", LARGE, "no_change"),
        ("rtx3060", LARGE, "int8-quanto"),
        ("m4", LARGE, "no_change"),
        ("m2", LARGE, "int8-quanto"),
        ("m3-max", LARGE, "no_change"),
    ],
)
def test_precision_is_lowered_until_the_model_fits(chip: str, model: str, precision: str) -> None:
    made = plan(chip, model)
    assert made.precision.transformer.value == precision
    room = made.hardware.device.usable_bytes
    assert room is not None and made.memory.estimate.training <= room
    rejected = {r.name for r in made.precision.transformer.rejected}
    assert "no_change" in rejected or precision == "no_change"


def test_a_model_too_large_in_any_precision_is_refused_with_the_numbers() -> None:
    with pytest.raises(PlanError, match=r"needs about .* has 10\.5 GiB") as e:
        plan("rtx2080ti", LARGE, gradient_checkpointing=False, train_batch_size=8)
    assert e.value.hint


def test_where_nothing_fits_the_hint_is_about_size() -> None:
    with pytest.raises(PlanError, match=r"Apple M1 has 10\.7 GiB") as e:
        plan("m1", LARGE)
    assert "smaller model" in e.value.hint
    assert "blocks_to_swap" not in e.value.hint, "which a shared memory makes pointless"


def test_text_encoders_that_do_not_fit_run_on_the_host() -> None:
    made = plan("rtx3060")
    assert made.memory.estimate.text_encoders > 10 * GIB
    assert plan("rtx2080ti").memory.offload.value == "text_encoders"
    quantised = plan("rtx2080ti", text_encoder_3_precision="int8-quanto")
    assert quantised.memory.offload.value == "none"


def test_t5_is_quantised_where_neither_card_nor_host_holds_it() -> None:
    made = plan("m1", side=512)
    assert made.precision.text_encoders[2].value == "int8-quanto"
    assert made.precision.text_encoders[0].value == "no_change"
    assert made.memory.estimate.text_encoders < 12 * GIB, "what macOS leaves of the Mac's memory"
    assert made.memory.offload.value == "text_encoders", "they do not fit the GPU's share"
    with pytest.raises(PlanError, match=r"the text encoders need about .* has 10\.7 GiB") as e:
        plan("m1", side=512, text_encoder_3_precision="no_change")
    assert "int8-quanto" in e.value.hint


def test_batch_size_shrinks_to_what_fits_and_says_why() -> None:
    made = plan("t4", gradient_checkpointing=False)
    decision = made.data.batch_size
    assert decision.value < 4 and decision.source.by == "auto" and "GiB" in decision.reason


def test_few_images_get_a_batch_they_can_fill() -> None:
    assert plan("h200", count=3).batch_size == 3
    assert plan("h200", count=1).batch_size == 1
    assert plan("h200", count=5, gradient_accumulation_steps=2).batch_size == 2


def test_epochs_are_counted_in_steps() -> None:
    made = plan("h200", num_train_epochs=3, max_train_steps=None, train_batch_size=4,
                gradient_accumulation_steps=2, count=21)  # fmt: skip
    assert made.steps == 3 * 3  # 21 images: 6 batches, 3 steps an epoch
    assert "3 epochs of 3 steps over 21 images" in made.data.steps.reason


def test_every_decision_has_value_reason_source_and_rejected_in_json() -> None:
    document = json.loads(json.dumps(describe(plan("mi300x"))))
    assert document["schema"] == 2 and document["measured"] is False
    for axis, decision in document["decisions"].items():
        assert set(decision) - {"file", "key"} == {"value", "source", "reason", "rejected"}, axis
        assert decision["source"] in ("user", "default", "auto") and decision["reason"]
    memory = document["memory"]
    parts = ("weights", "adapter", "gradients", "optimizer", "activations", "workspace")
    assert sum(memory[f"{p}_bytes"] for p in parts) == memory["training_bytes"]


def test_the_same_input_gives_the_same_plan() -> None:
    assert describe(plan("t4")) == describe(plan("t4"))


def test_known_models_are_found_without_a_network() -> None:
    known = {
        "stabilityai/stable-diffusion-3-medium-diffusers": ("sd3-medium", SD3_MEDIUM),
        MEDIUM: ("sd3.5-medium", SD35_MEDIUM),
        LARGE: ("sd3.5-large", SD35_LARGE),
    }
    for repository, (name, shape) in known.items():
        found = find(repository)
        assert (found.name, found.transformer) == (name, shape)


def test_sageattention_asked_for_is_for_pictures_only() -> None:
    with pytest.raises(PlanError, match="sageattention is not installed"):
        plan("rtx4090", attention_mechanism="sageattention")


def test_stableadamw_at_a_rate_that_diverged_is_warned_about() -> None:
    made = plan("h200", LARGE, optimizer="optimi-stableadamw", learning_rate=4e-5)
    assert any("diverged" in w for w in made.warnings)
    calm = plan("h200", LARGE, optimizer="optimi-stableadamw", learning_rate=1e-5)
    assert not any("diverged" in w for w in calm.warnings)


def warned(*, model: str = LARGE, **settings: Any) -> str:
    return "\n".join(plan("h200", model, **settings).warnings)


def test_products_in_8_bits_are_advised_to_be_compiled_on_a_card() -> None:
    slower = "fp8-w8a8 is expected to be slower than no_change here unless the blocks are compiled"
    assert slower in warned(base_model_precision="fp8-w8a8")
    assert slower not in warned(base_model_precision="fp8-w8a8", dynamo_backend="inductor")
    assert "is expected to be slower" not in warned(base_model_precision="fp8-quanto")
    made = plan("h200", base_model_precision="fp8-w8a8", w8a8_check_interval=7)
    assert made.precision.check_interval == 7
    weights = (made, plan("h200", base_model_precision="fp8-quanto"))
    assert len({m.memory.estimate.weights for m in weights}) == 1


def test_risky_values_on_the_large_model_are_warned_about_with_the_reason() -> None:
    risky: dict[str, Any] = {"optimizer": "optimi-stableadamw", "learning_rate": 4e-5}
    assert "4e-05 with StableAdamW" in warned(**risky)
    assert "StableAdamW" not in warned(model=MEDIUM, **risky)
    assert "StableAdamW" not in warned(**risky | {"optimizer": "adamw"})
    scaled: dict[str, Any] = {"learning_rate": 1e-5, "lr_scale": True, "train_batch_size": 4}
    assert "4e-05 with StableAdamW" in warned(**risky | scaled)
    for high in (0, 2.0):
        assert f"max_grad_norm={high:g}" in warned(max_grad_norm=high)
        assert "max_grad_norm" not in warned(model=MEDIUM, max_grad_norm=high)
    assert "max_grad_norm" not in warned(max_grad_norm=0.1) + warned()


FACTORS = ("prodigy", "torch-adadelta")  # a learning rate of 1 is usual


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"optimizer": "prodigy"}, "factor on the rate that Prodigy finds: set 1"),
        ({"optimizer": "torch-adadelta"}, "set about 1"),
        ({"optimizer": "adamw_schedulefree", "lr_scheduler": "cosine"}, "averaging replaces"),
        ({"lr_scheduler": "cosine_with_restarts"}, "never restarts with lr_num_cycles=1"),
        ({"gradient_precision": "fp32"}, "trains float32 weights"),
        (
            {"optimizer": "soap", "model_type": "full", "base_model_default_dtype": "fp32"},
            "on whole weights it is AdamW",
        ),
    ],
)
def test_what_will_disappoint_is_said(settings: dict[str, Any], words: str) -> None:
    assert words in warned(model=MEDIUM, **settings)
    calm = {"lr_num_cycles": 2, "lr_scheduler": "constant_with_warmup"}
    calm |= {"learning_rate": 1.0} if settings.get("optimizer") in FACTORS else {}
    calm |= {"optimizer": "adamw_bf16"} if "gradient_precision" in settings else {}
    calm |= {"model_type": "lora"} if "model_type" in settings else {}
    assert words not in warned(model=MEDIUM, **settings | calm)


def test_the_learning_rate_is_scaled_by_the_images_of_a_step() -> None:
    asked: dict[str, Any] = {
        "learning_rate": 1e-5,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 8,
    }
    assert plan("h200", **asked).optimizer.rate.peak == 1e-5
    made = plan("h200", **asked, lr_scale=True)
    assert made.optimizer.rate.peak == pytest.approx(1.6e-4)
    assert "1e-05 x 16 images a step" in made.optimizer.peak_rate.reason
    root = plan("h200", **asked, lr_scale=True, lr_scale_sqrt=True)
    assert root.optimizer.rate.peak == pytest.approx(4e-5)
    scaled = scaled_rate(made.config, 2, processes=4)
    assert scaled.value == pytest.approx(6.4e-4)


def test_state_of_eight_bits_is_a_quarter_and_paged_counts_as_it() -> None:
    def state(name: str) -> int:
        return plan("h200", optimizer=name).memory.estimate.optimizer

    assert state("bnb-adamw8bit") == state("bnb-adamw8bit-paged") < 0.26 * state("adamw")
    assert state("adamw_bf16") == 0.5 * state("adamw")


@pytest.mark.parametrize("name", ["sd3.5-large", "sd3.5-medium"])
def test_the_stable_recipes_of_examples_plan_without_a_warning(name: str, tmp_path: Path) -> None:
    project = tmp_path / name
    shutil.copytree(EXAMPLES / name, project)
    (project / "images").mkdir()
    for i in range(12):
        Image.new("RGB", (1024, 1024)).save(project / "images" / f"{i}.png")
        (project / "images" / f"{i}.txt").write_text("a red bicycle")
    for chip in ("h200", "rtx4090", "mi300x", "rx7900xtx"):
        made = prepare_run(project / "config" / "config.json", (), chip).plan
        assert made.model.name.endswith(name.removeprefix("sd3.5-"))
        assert made.optimizer.name.value == "adamw_bf16"
        assert made.precision.trainable.value == "bf16"
        assert all("untested on hardware" in w for w in made.warnings)


def test_plan_json_names_file_and_key_of_what_the_user_wrote(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (1024, 1024)).save(tmp_path / "images" / "a red bicycle.png")
    datasets = [{"id": "d", "instance_data_dir": "images", "caption_strategy": "filename"},
                {"id": "t", "dataset_type": "text_embeds", "default": True}]  # fmt: skip
    settings = {"output_dir": "o", "model_flavour": "medium", "max_train_steps": 3,
                "train_batch_size": 1}  # fmt: skip
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "multidatabackend.json").write_text(json.dumps(datasets))
    (folder / "config.json").write_text(json.dumps(settings))
    made = prepare_run(folder / "config.json", ("learning_rate=5e-5",), "h200").plan
    rows = describe(made)["decisions"]
    steps, rate, scaler = (rows[a] for a in ("max_train_steps", "learning_rate", "grad_scaler"))
    assert (steps["value"], steps["source"], steps["key"]) == (3, "user", "max_train_steps")
    assert steps["file"].endswith("config/config.json")
    assert (rate["value"], rate["file"]) == (5e-5, "the command line")
    assert rows["gradient_accumulation_steps"]["source"] == "default"
    assert (scaler["value"], scaler["source"]) == ("off", "auto") and "file" not in scaler


@pytest.mark.parametrize(
    ("settings", "axis", "value", "by", "key"),
    [
        # What the user wrote is the user's, also where it is the default or switches off.
        ({"blocks_to_swap": 0}, "blocks_to_swap", 0, "user", "blocks_to_swap"),
        ({}, "blocks_to_swap", 0, "auto", None),
        ({"deterministic": False}, "deterministic", "off", "user", "deterministic"),
        ({}, "deterministic", "off", "auto", None),
        ({"gradient_checkpointing": False, "gradient_checkpointing_interval": 1},
         "gradient_checkpointing_interval", 1, "user", "gradient_checkpointing_interval"),
        ({"gradient_checkpointing": False}, "gradient_checkpointing_interval", 1, "default", None),
        # What follows from another setting names it, and is not the user's own word.
        ({"max_train_steps": None, "num_train_epochs": 2}, "max_train_steps", 10, "auto",
         "num_train_epochs"),
        ({"lr_scale": True, "train_batch_size": 2, "learning_rate": 0.5}, "learning_rate", 1.0,
         "auto", "lr_scale"),
        ({"attention_mechanism": "native-math"}, "attention_no_grad", "as-training", "auto",
         "attention_mechanism"),
        ({"attention_mechanism": "native-math"}, "attention_mechanism", "native-math", "user",
         "attention_mechanism"),
    ],
)  # fmt: skip
def test_provenance_is_that_of_the_value(
    settings: dict[str, Any], axis: str, value: object, by: str, key: str | None
) -> None:
    made = decisions(plan("h100", **settings))[axis]
    assert (made.value, made.source.by, made.source.key) == (value, by, key)


def test_the_number_of_processes_is_the_users_only_where_the_user_set_that_number() -> None:
    def source(count: int, **settings: int) -> tuple[str, str | None]:
        config = Config(output_dir="o", data_backend_config="d", max_train_steps=1, **settings)
        one = chips.facts(chips.chip("h100"))
        facts = replace(one, devices=one.devices * count)
        inputs = RunInputs(config, facts, find(MEDIUM), samples(),
                           processes=Processes(size=count, local_size=count))  # fmt: skip
        made = decisions(resolve(inputs))["num_processes"]
        assert made.value == count
        return made.source.by, made.source.key

    assert source(1) == ("default", None)
    assert source(2, num_processes=2) == ("user", "num_processes")
    assert source(2, num_machines=2) == ("auto", "num_machines")
    assert source(2) == ("auto", None)  # started by a launcher


def test_a_warmup_longer_than_the_epochs_is_said() -> None:
    epochs: dict[str, Any] = {"max_train_steps": None, "num_train_epochs": 1}
    assert not any("never reaches" in w for w in plan("h100", lr_warmup_steps=4, **epochs).warnings)
    said = plan("h100", lr_warmup_steps=5, **epochs).warnings
    assert any("lr_warmup_steps=5 is not below the 5 steps" in w for w in said)


def test_every_missing_file_is_reported_at_once(tmp_path: Path) -> None:
    config = Config(output_dir=tmp_path, data_backend_config="d", max_train_steps=1,
                    init_lora=tmp_path / "no.safetensors", resume_from_checkpoint="checkpoint-9",
                    user_prompt_library=tmp_path / "no.json")  # fmt: skip
    with pytest.raises(ConfigError) as e:
        preflight.refuse_missing_files(config)
    said = [p.message for p in e.value.problems]
    assert len(said) == 3
    for words in ("init_lora", "no such prompt library", "resume_from_checkpoint"):
        assert any(words in message for message in said)


def test_everything_that_is_broken_is_reported_at_once() -> None:
    broken = tuple(Problem(f"software.{p}", "fail", f"{p} is broken", f"pip install {p}")
                   for p in ("diffusers", "peft"))  # fmt: skip
    device = Problem("probe.matmul", "fail", "wrong results", "reboot")
    facts = replace(chips.facts(chips.chip("h100")), problems=(*broken, device))
    with pytest.raises(HardwareError) as e:
        devices.refuse_broken(facts)
    assert [(p.message, p.hint) for p in e.value.problems] == [
        ("diffusers is broken", "pip install diffusers"),
        ("peft is broken", "pip install peft"),
        ("wrong results", "reboot; SD3TUNE_BACKEND=cpu trains on the CPU instead"),
    ]


def test_values_of_a_plan_have_the_type_of_what_they_are() -> None:
    made = plan("m3-max", LARGE, base_model_precision="int8-quanto")
    assert made.precision.autocast.value is None and made.precision.fp8_dtype.value is None
    assert made.precision.grad_scaler.value is False and made.memory.checkpointing.value is True
    assert made.trained.lora is not None
    assert made.trained.lora.targets.value == ("to_q", "to_k", "to_v", "to_out.0")
    assert made.optimizer.peak_rate.value == made.optimizer.rate.peak == 1e-4
    written = {axis: d.value for axis, d in decisions(made).items()}
    assert (written["mixed_precision"], written["fp8_dtype"], written["grad_scaler"]) == (
        "no", "none", "off"
    )  # fmt: skip
    assert written["peft_lora_target_modules"] == "to_q,to_k,to_v,to_out.0"


@pytest.mark.parametrize(
    ("chip", "untested"),
    [("h200", False), ("h100", False), ("rtx4090", True), ("mi300x", True), ("m3-max", True)],
)
def test_a_chip_nobody_has_run_says_so_in_every_plan(chip: str, untested: bool) -> None:
    said = any("untested on hardware of this kind" in w for w in plan(chip).warnings)
    assert said == untested


@pytest.mark.parametrize("shape", [SD3_MEDIUM, SD35_MEDIUM, SD35_LARGE])
def test_the_blocks_of_a_model_are_its_quantisable_layers(shape: Transformer) -> None:
    blocks = [shape.block(i) for i in range(shape.layers)]
    assert sum(quantisable for _, quantisable in blocks) == shape.quantisable
    outside = shape.parameters - sum(all_of_it for all_of_it, _ in blocks)
    assert 0 < outside < 0.03 * shape.parameters  # embedders and the last layer


def test_every_block_that_is_swapped_leaves_the_device_but_two() -> None:
    """SD3.5 large in bf16: 38 blocks, of which all but two may be away: one computes, one comes."""
    none, half, every = (
        plan(
            "h200", LARGE, blocks_to_swap=n, base_model_precision="no_change", modulations="device"
        ).memory.estimate.weights
        for n in (0, 19, 38)
    )
    assert none / GIB == pytest.approx(15.17, abs=0.02), "with the table of positions"
    block = 2 * SD35_LARGE.block(0)[0]
    assert half == none - 17 * block
    assert every == none - 2 * sum(SD35_LARGE.block(i)[0] for i in range(2, 38))


# Nothing leaves the device but AdaLN weights.
ON_DEVICE: dict[str, Any] = {"blocks_to_swap": 0, "gradient_checkpointing_backend": "torch"}


def test_sd35_large_trains_on_8_gb_with_4_bit_weights_and_not_with_8_bit_ones() -> None:
    """At 1024 px and batch size 1 with AdaLN weights in host memory, GiB of tensors were counted by
    the step of the model on fake tensors: 6.80 with int8 and 4.34 with nf4; 0.8 are workspace."""
    with pytest.raises(PlanError, match=r"needs about 7\.6 GiB .* RTX 4060 has 7\.5 GiB") as e:
        plan("rtx4060", LARGE, base_model_precision="int8-quanto", train_batch_size=1,
             **ON_DEVICE)  # fmt: skip
    assert "usable here: nf4-bnb" in e.value.hint
    small = plan("rtx4060", LARGE, train_batch_size=1, gradient_checkpointing_keep="inputs")
    assert small.precision.transformer.value == "nf4-bnb"
    assert small.memory.estimate.tensors / GIB == pytest.approx(4.34, rel=0.01)


def test_a_step_is_counted_for_weights_that_can_be_chosen_and_no_others() -> None:
    """int8, fp8 and 8-bit products all come near to the memory of this card, and a count takes ten
    seconds and more."""
    counted: list[str] = []

    def count(shape: Transformer, load: Load) -> int | None:
        counted.append(load.precision)
        return None

    facts, model = chips.facts(chips.chip("rtx4060")), find(LARGE)
    for precision, near in ((None, {"int8-quanto"}), ("nf4-bnb", set())):
        counted.clear()
        config = Config(output_dir="o", data_backend_config="d", max_train_steps=10,
                        train_batch_size=1, base_model_precision=precision)  # fmt: skip
        resolve(RunInputs(config, facts, model, samples(), count=count))
        assert set(counted) == near


@pytest.mark.parametrize("counted, fits", [(6.6, True), (6.8, False)])
def test_a_count_decides_where_the_formula_is_near_the_limit(counted: float, fits: bool) -> None:
    """SD3.5 large in int8 on an RTX 4060: the formula says 7.6 GiB, and 7.54 may be filled. 0.8 are
    workspace."""
    config = Config(output_dir="o", data_backend_config="d", max_train_steps=10,
                    train_batch_size=1, base_model_precision="int8-quanto",
                    **ON_DEVICE)  # fmt: skip
    facts = chips.facts(chips.chip("rtx4060"))
    inputs = RunInputs(config, facts, find(LARGE), samples(), count=lambda *_: int(counted * GIB))
    if fits:
        assert resolve(inputs).precision.transformer.value == "int8-quanto"
        return
    with pytest.raises(PlanError, match=r"needs about 7\.6 GiB"):
        resolve(inputs)


def test_modulations_leave_a_card_that_is_nearly_full_in_the_cheaper_way() -> None:
    small = plan("rtx4060", LARGE, base_model_precision="nf4-bnb", train_batch_size=1,
                 gradient_checkpointing_keep="inputs")  # fmt: skip
    away = small.memory.modulations
    assert away.value == "streamed" and "untested on hardware" in away.reason
    # Counted: 4.34 and 9.40 GiB of tensors; 0.8 are workspace.
    assert (
        "the run needs 5.2 GiB instead of 10.2 GiB" in away.reason and "over the bus" in away.reason
    )
    asked = plan("rtx3060", LARGE, base_model_precision="nf4-bnb", modulations="device",
                 train_batch_size=1, **ON_DEVICE)  # fmt: skip
    adaln = asked.memory.estimate.weights - plan(
        "rtx3060", LARGE, base_model_precision="nf4-bnb", modulations="host", train_batch_size=1,
        **ON_DEVICE,
    ).memory.estimate.weights  # fmt: skip
    assert adaln / GIB == pytest.approx(5.0 - 0.07 + 0.17, abs=0.05), "a layer stays, positions go"
    assert plan("h200", LARGE).memory.modulations.value == "device"


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"model_type": "full"}, "model_type=full trains"),
        ({"peft_lora_target_modules": ["norm1.linear"]}, "the adapter trains `transformer_blocks"),
        (
            {"peft_lora_target_modules": ["to_q", "transformer_blocks.3.norm1_context.linear"]},
            "the adapter trains `transformer_blocks.3.norm1_context.linear`",
        ),
        ({"peft_lora_target_modules": ["norm_out.linear"], "use_dora": True}, "the adapter trains"),
        ({"peft_lora_target_modules": ["linear_2"]}, "the adapter trains `time_text_embed"),
        ({"fsdp_enable": True}, "fsdp_enable=true moves"),
    ],
)
def test_modulations_stay_where_their_layers_train(settings: dict[str, Any], words: str) -> None:
    assert plan("h200", **settings).memory.modulations.value == "device"
    with pytest.raises(PlanError, match=f"`modulations=streamed` is not possible: {words}"):
        plan("h200", modulations="streamed", **settings)


@pytest.mark.parametrize(
    "targets, trained",
    [
        ({}, None),
        ({"target_module": ["Attention", "FeedForward"]}, None),
        ({"target_module": ["JointTransformerBlock"]}, "transformer_blocks.0.norm1.linear"),
        ({"target_module": ["Linear"], "exclude_name": [r".*norm.*"]}, "time_text_embed.timestep"),
        ({"target_module": ["AdaLayerNormContinuous"]}, "transformer_blocks.23.norm1_context"),
        ({"target_name": [r"norm_out\.linear"]}, "norm_out.linear"),
        ({"target_name": ["*.5.norm1.linear"], "use_fnmatch": True}, "transformer_blocks.5.norm1"),
        ({"name_algo_map": {r".*\.norm1\.linear": {"algo": "loha"}}}, "transformer_blocks.0.norm1"),
        ({"module_algo_map": {"AdaLayerNormZero": {"dim": 2}}}, "transformer_blocks"),
    ],
)
@pytest.mark.parametrize("algo", ["lokr", "diag-oft"])
def test_modulations_stay_where_a_lycoris_trains_their_layers(
    algo: str, targets: dict[str, Any], trained: str | None
) -> None:
    """By class names and by expressions."""
    shape = {"algo": algo, "linear_dim": 4, "linear_alpha": 4, "apply_preset": targets}
    settings = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 9}
    config = Config(**settings, lora_type="lycoris", lycoris_config="l", modulations="streamed")
    facts, lycoris = chips.facts(chips.chip("h200")), Lycoris.model_validate(shape)
    inputs = RunInputs(config, facts, find(MEDIUM), samples(), lycoris=lycoris)
    if trained is None:
        assert resolve(inputs).memory.modulations.value == "streamed"
        return
    with pytest.raises(PlanError, match=f"is not possible: the adapter trains `{trained}"):
        resolve(inputs)


def test_one_memory_gains_nothing_from_modulations_elsewhere() -> None:
    with pytest.raises(PlanError, match="share one memory"):
        plan("m3-max", modulations="streamed")


def test_fewer_forgetful_blocks_keep_more_and_inputs_on_the_host_keep_less() -> None:
    def kept(**settings: Any) -> int:
        return plan("h200", LARGE, train_batch_size=1, **settings).memory.estimate.activations

    every, second, off = (
        kept(gradient_checkpointing_keep="inputs"), kept(gradient_checkpointing_interval=2),
        kept(gradient_checkpointing=False),
    )  # fmt: skip
    assert every < second < off
    assert second / off == pytest.approx(0.5 + 1 / 38, abs=0.03)
    on_host = kept(gradient_checkpointing_backend="unsloth")
    assert 0.4 < on_host / every < 0.6, "one recomputed block is as large as the inputs of 38"


@pytest.mark.parametrize(
    "chip, precision, settings, folder",
    [
        ("h200", "int8-quanto", {}, None),
        ("h200", "int8-quanto", {"quantize_via": "cpu"}, Path("o/cache/quantised")),
        ("h200", "int8-quanto", {"cache_dir_quantised": "x"}, Path("x")),
        ("m3-max", "int8-quanto", {}, Path("o/cache/quantised")),
        ("m3-max", "int8-quanto", {"cache_dir_quantised": "none"}, None),
        ("h200", "no_change", {"cache_dir_quantised": "x"}, None),
    ],
)
def test_quantised_transformers_are_kept_where_making_them_takes_minutes(
    chip: str, precision: str, settings: dict[str, Any], folder: Path | None
) -> None:
    made = plan(chip, base_model_precision=precision, **settings)
    assert made.memory.quantised_cache.value == folder


def test_a_card_that_is_too_small_hears_of_swapping_and_swapping_makes_it_fit() -> None:
    whole: dict[str, Any] = {"base_model_precision": "no_change", "train_batch_size": 1}
    with pytest.raises(PlanError):
        plan("rtx3060", LARGE, **whole, **ON_DEVICE)
    with pytest.raises(PlanError) as e:
        plan("rtx3060", LARGE, train_batch_size=16, batch_split=1, **ON_DEVICE)
    assert "blocks_to_swap" in e.value.hint
    small = plan("rtx3060", LARGE, blocks_to_swap=30, **whole)
    assert small.memory.estimate.training < small.hardware.device.usable_bytes  # type: ignore[operator]


def test_settings_of_t5_have_no_effect_on_a_model_without_it() -> None:
    values: Any = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10}
    config = Config(**values, text_encoder_3_precision="int8-quanto", t5_padding="zero")
    model = find(MEDIUM)
    for t5, silent in ((model.text_encoders[2], True), (0, False)):
        other = replace(model, text_encoders=(*model.text_encoders[:2], t5))
        inputs = RunInputs(config, chips.facts(chips.chip("h200")), other, samples())
        said = [w for w in resolve(inputs).warnings if "the model has no T5" in w]
        assert (said == []) == silent
        assert silent or said[0].startswith("text_encoder_3_precision and t5_padding")
