"""Whole runs on the tiny models: they learn, diffusers loads the result, they resume exactly."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

from sd3tune.demo import MODELS
from sd3tune.errors import CheckpointError, ConfigError
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.train import checkpoint
from sd3tune.train.begin import begin
from tests.cpu.conftest import Train
from tests.image_folders import shown

SHORT = ("max_train_steps=12", "lr_scheduler=constant", "lr_warmup_steps=0")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "sd3.5-medium")) for n in MODELS]
)
def test_each_architecture_learns_and_diffusers_loads_what_it_learned(
    name: str, run: Train, demo: Path, tmp_path: Path
) -> None:
    model = demo / "models" / name
    outcome = run(
        f"pretrained_model_name_or_path={model}", *SHORT, "max_train_steps=40", "lora_alpha=24"
    )
    assert outcome.loss_after is not None and outcome.loss_before is not None
    assert outcome.loss_after < outcome.loss_before * 0.995
    assert outcome.adapter is not None
    keys = list(load_file(outcome.adapter))
    assert all(k.startswith("transformer.") and "lora_" in k for k in keys)
    assert any(".attn2." in k for k in keys) == (name == "sd3.5-medium")
    pipe = StableDiffusion3Pipeline.from_pretrained(model)
    torch.manual_seed(0)
    question = {
        "hidden_states": torch.randn(1, 16, 16, 16),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 20, 96),
        "pooled_projections": torch.randn(1, 80),
        "return_dict": False,
    }
    with torch.no_grad():
        base = pipe.transformer(**question)[0]
        pipe.load_lora_weights(str(outcome.output))
        adapted = pipe.transformer(**question)[0]
    assert (adapted - base).abs().max() > 1e-3
    expected = by_hand(pipe, model, outcome.output / "checkpoint-40", question)
    torch.testing.assert_close(adapted, expected, rtol=0, atol=1e-5)


def by_hand(pipe, model: Path, folder: Path, question):  # type: ignore[no-untyped-def]
    """W + alpha/rank B A, added to a fresh copy of the weights: the paper's equation 3."""
    fresh = StableDiffusion3Pipeline.from_pretrained(model).transformer
    state = load_file(folder / "trained.safetensors")
    for key in [k for k in state if "lora_A" in k]:
        name = key.split(".lora_A")[0]
        delta = 24 / 8 * state[key.replace("lora_A", "lora_B")] @ state[key]
        fresh.get_submodule(name).weight.data += delta
    with torch.no_grad():
        return fresh(**question)[0]


@pytest.mark.slow
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(  # type: ignore[no-untyped-def]
    run: Train, prepared, tmp_path: Path
) -> None:
    words = (*SHORT, "lora_dropout=0.2", "gradient_accumulation_steps=2", "lr_scheduler=cosine",
             "scheduled_sampling_max_step_offset=1", "scheduled_sampling_ramp_steps=8",
             "input_perturbation=0.1", "input_perturbation_steps=10")  # fmt: skip
    whole = run(*words, f"output_dir={tmp_path / 'whole'}", "checkpoint_step_interval=5")
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / "whole" / "checkpoint-5").rename(again / "checkpoint-5")
    beyond = (tmp_path / "whole" / "metrics.jsonl").read_text()
    (again / "metrics.jsonl").write_text(
        beyond[:-30]
    )  # a killed run wrote more, and not to the end
    resumed = run(*words, f"output_dir={again}")
    assert whole.adapter is not None and resumed.adapter is not None
    ours, theirs = load_file(resumed.adapter), load_file(whole.adapter)
    assert all(torch.equal(ours[k], theirs[k]) for k in ours | theirs)
    assert resumed.loss_after == whole.loss_after and resumed.loss_before == whole.loss_before
    first, second = (load_file(p / "checkpoint-12" / "optimizer.safetensors")
                     for p in (tmp_path / "whole", again))  # fmt: skip
    assert all(torch.equal(first[k], second[k]) for k in first)
    states = [json.loads((p / "checkpoint-12" / "state.json").read_text())
              for p in (tmp_path / "whole", again)]  # fmt: skip
    assert states[0] == states[1] and len(states[0]["recent_losses"]) == 12
    logs = [
        [
            json.loads(line) | {"seconds": 0}
            for line in (p / "metrics.jsonl").read_text().splitlines()
        ]
        for p in (tmp_path / "whole", again)
    ]
    assert logs[0] == logs[1] and [row["step"] for row in logs[0]] == list(range(1, 13))
    assert logs[0][0]["grad_norm"] > 0 and logs[0][0]["weight_norm"] > 0
    assert {row["images"] for row in logs[0]} == {8}  # two batches of 4


def test_a_torn_checkpoint_is_passed_over(prepared, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plan = prepared(*SHORT).plan
    state = begin(plan, ALONE_ON_CPU)
    for step in (1, 2, 3):
        state.step = step
        checkpoint.save(state, tmp_path, "{}")
    (tmp_path / "checkpoint-3" / "trained.safetensors").write_bytes(b"torn")
    (tmp_path / "checkpoint-2" / "state.json").unlink()
    found, passed = checkpoint.latest(tmp_path)
    assert found == tmp_path / "checkpoint-1" and len(passed) == 2
    with pytest.raises(CheckpointError, match=r"trained.safetensors does not have its checksum"):
        checkpoint.load(state, tmp_path / "checkpoint-3")


def test_a_checkpoint_of_another_adapter_is_refused(prepared, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    state = begin(prepared(*SHORT).plan, ALONE_ON_CPU)
    folder = checkpoint.save(state, tmp_path, "{}")
    other = begin(prepared(*SHORT, "lora_rank=4").plan, ALONE_ON_CPU)
    with pytest.raises(CheckpointError, match="another shape") as refused:
        checkpoint.load(other, folder)
    assert refused.value.hint.endswith("or resume_from_checkpoint=never")
    fewer = begin(prepared(*SHORT, "peft_lora_target_modules=to_q").plan, ALONE_ON_CPU)
    with pytest.raises(CheckpointError, match="differs"):
        checkpoint.load(fewer, folder)


@pytest.mark.parametrize(
    "precision",
    [
        pytest.param("int8-quanto", marks=pytest.mark.slow),
        pytest.param("nf4-bnb", marks=pytest.mark.slow),
        pytest.param("int4-quanto", marks=pytest.mark.slow),
        pytest.param("int2-quanto", marks=pytest.mark.slow),
        pytest.param("fp8-quanto", marks=pytest.mark.slow),
    ],
)
def test_every_precision_trains_and_shrinks_the_blocks(precision: str, run: Train) -> None:
    outcome = run(f"base_model_precision={precision}", *SHORT, "max_train_steps=30")
    assert outcome.loss_after is not None and outcome.loss_before is not None
    assert outcome.loss_after < outcome.loss_before


@pytest.mark.slow
def test_quantised_text_encoders_stay_close(prepared) -> None:  # type: ignore[no-untyped-def]
    from sd3tune.encode.embeddings import load_encoders

    plain = load_encoders(prepared(*SHORT).plan, torch.device("cpu"))
    words = [f"text_encoder_{i}_precision=int8-quanto" for i in (1, 2, 3)]
    small = load_encoders(prepared(*SHORT, *words).plan, torch.device("cpu"))
    want, _ = plain.encode(["a cat"])
    got, _ = small.encode(["a cat"])
    error = (got - want).norm() / want.norm()
    assert 0 < error < 0.05


@pytest.mark.slow
def test_losses_match_the_golden_curve(
    run: Train, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = Path(__file__).parents[1] / "golden" / "losses.json"
    outcome = run(*SHORT)
    found = [outcome.loss_before, outcome.loss_after]
    if request.config.getoption("--update-golden"):
        golden.write_text(json.dumps(found) + "\n")
    # Processors differ in the last bits, and twelve steps spread them.
    assert found == pytest.approx(json.loads(golden.read_text()), rel=1e-3)


@pytest.mark.slow
def test_sigterm_finishes_the_step_saves_and_the_same_command_continues(
    demo: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "sd3tune", "train", str(demo / "config" / "config.json"),
               f"output_dir={tmp_path}", "max_train_steps=400", "validation_disable=true",
               "checkpoint_step_interval=3", "lr_warmup_steps=0"]  # fmt: skip
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 128 + signal.SIGTERM, said
    assert "the same command continues" in said
    found, _ = checkpoint.latest(tmp_path)
    assert found is not None
    step = json.loads((found / "state.json").read_text())["step"]
    total = f"max_train_steps={step + 2}"
    done = subprocess.run([*command, total], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0 and f"step {step} of {step + 2}" in done.stderr, done.stderr
    assert (tmp_path / "pytorch_lora_weights.safetensors").exists()


@pytest.mark.slow
def test_pictures_are_drawn_for_every_prompt_and_size(run: Train, tmp_path: Path) -> None:

    outcome = run(
        *SHORT,
        "max_train_steps=2",
        "lr_scheduler=constant",
        "validation_disable=false",
        "validation_resolution=128x128,192x128",
        "validation_prompt=a cup of coffee",
        "validation_num_inference_steps=3",
        "validation_guidance_skip_layers=[1]",
        "validation_guidance_skip_layers_stop=0.9",
    )
    names = sorted(p.name for p in outcome.pictures)
    assert names == sorted(
        f"step_2_{name}_0_{size}.png"
        for name in ("unconditional", "cat", "rocket", "validation")
        for size in ("128x128", "192x128")
    )
    sizes = {shown(p).size for p in outcome.pictures}
    assert sizes == {(128, 128), (192, 128)}


def test_an_output_folder_that_cannot_be_made_is_named_before_anything_is_loaded(
    run: Train,
) -> None:
    with pytest.raises(ConfigError, match=r"output_dir=/dev/null/x"):
        run(*SHORT, "output_dir=/dev/null/x")
