"""Adapters and checkpoints of strangers: converted, or one error that names the file."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sd3tune import cli
from sd3tune.adapters import lora
from sd3tune.errors import ConfigError
from sd3tune.formats import adapter_files
from sd3tune.sd3 import weights
from tests.cpu.conftest import Project
from tests.cpu.hostile import MODEL, PLAN, said

ADAPTERS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "NaN": lambda t: t | {min(t): torch.full_like(t[min(t)], math.nan)},
    "an infinity": lambda t: t | {max(t): t[max(t)].index_fill(0, torch.tensor([0]), math.inf)},
    "an alpha of NaN": lambda t: t | {alpha_of(t): torch.tensor(math.nan)},
    "an alpha of two numbers": lambda t: t | {alpha_of(t): torch.ones(2)},
    "a half missing": lambda t: {k: v for k, v in t.items() if k != min(t)},
    "no rank": lambda t: {k: v[:0] if "lora_A" in k else v[:, :0] for k, v in t.items()},
    "another rank": lambda t: t | {min(t): t[min(t)][:1].clone()},
    "numbers for matrices": lambda t: {k: v.flatten()[0].clone() for k, v in t.items()},
    "another width": lambda t: {k: v[:, :5].clone() if "lora_A" in k else v for k, v in t.items()},
    "three dimensions": lambda t: {k: v[None].clone() for k, v in t.items()},
    "text encoders": lambda t: t | {"text_encoder.x.lora_A.weight": torch.ones(1)},
    "halves of LoKr": lambda t: {"lycoris_transformer_blocks_0_attn_to_q.lokr_w1_a": torch.ones(2)},
    "LoHa that does not fit": lambda t: {
        f"lycoris_transformer_blocks_0_attn_to_q.hada_{n}": torch.ones(i + 2, 3)
        for i, n in enumerate(("w1_a", "w1_b", "w2_a", "w2_b"))},
    "nothing": lambda t: {},
}  # fmt: skip


def alpha_of(tensors: dict[str, torch.Tensor]) -> str:
    return min(tensors).partition(".lora_")[0] + ".alpha"


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_of_any_kind_is_converted_or_one_error(
    case: str, adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = adapter.with_name("odd.safetensors")
    save_file(ADAPTERS[case](load_file(adapter)), path)
    said(["inspect", str(path)], monkeypatch, capsys)
    for dialect in ("diffusers", "comfyui", "kohya"):
        words = ["export", str(path), "--to", dialect, "--rank", "2", "--force"]
        code, lines = said(words, monkeypatch, capsys)
        assert code == 1 or case == "another width", lines
        if case in ("NaN", "an infinity"):
            assert "odd.safetensors" in lines[0] and "holds NaN or infinity" in lines[0]
            assert ".lora_" in lines[0]


@pytest.mark.parametrize("case", ["NaN", "an infinity"])
def test_init_lora_with_nan_is_refused_by_plan_and_when_it_is_read(
    case: str,
    adapter: Path,
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = adapter.with_name("odd.safetensors")
    save_file(ADAPTERS[case](load_file(adapter)), path)
    code, lines = said([*PLAN[:2], f"init_lora={path}", *PLAN[2:]], monkeypatch, capsys)
    assert code == 1 and "holds NaN or infinity" in lines[0] and "tensor `" in lines[0]


LOHA = "lycoris_transformer_blocks_0_attn_to_q.hada_"
OTHERS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "weights of a model": (lambda t: {"model.weight": torch.ones(2, 2)}, "is not an adapter"),
    "no tensor at all": (lambda t: {}, "is not an adapter"),
    "text encoders": (ADAPTERS["text encoders"], "text encoders are adapted too"),
    "a half missing": (ADAPTERS["a half missing"], "is incomplete"),
    "no rank": (ADAPTERS["no rank"], "is empty"),
    "a layer that SD3 has not": (lambda t: t | {"x.lora_A.weight": torch.ones(1)}, "not a key it"),
    "LoHa": (lambda t: {f"{LOHA}{n}": torch.ones(4, 4) for n in ("w1_a", "w1_b", "w2_a", "w2_b")},
             "is not a LoRA but loha"),
    "a larger rank": (
        lambda t: {k: torch.ones(99, 64) if "_A" in k else torch.ones(64, 99) for k in t},
        "has rank 99, this run lora_rank="),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_plan_refuses_an_init_lora_that_a_run_could_not_begin_with(
    case: str,
    adapter: Path,
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change, words = OTHERS[case]
    path = adapter.with_name("odd.safetensors")
    save_file(change(load_file(adapter)), path)
    code, lines = said([*PLAN[:2], f"init_lora={path}", *PLAN[2:]], monkeypatch, capsys)
    assert code == 1 and "odd.safetensors" in lines[0] and words in lines[0]


def test_init_lora_of_another_model_is_one_error(adapter: Path, project: Project) -> None:
    path = adapter.with_name("odd.safetensors")
    save_file(ADAPTERS["another width"](load_file(adapter)), path)
    model = weights.transformer(str(project.config["pretrained_model_name_or_path"]), "fp32")
    shape = lora.Shape(4, 4, 0.0, ("to_q", "to_k", "to_v", "to_out.0"))
    made = lora.attach(model, shape, dtype=torch.float32, seed=1)
    with pytest.raises(ConfigError, match="fits a layer of 5 to"):
        made.begin_with(adapter_files.read(path), str(path))


@pytest.fixture
def adapter(demo: Path, tmp_path: Path) -> Path:
    """A LoRA of the demo's model, as sd3tune writes it."""
    folder = tmp_path / "adapter"
    made = lora.attach(
        weights.transformer(str(demo / MODEL), "fp32"),
        lora.Shape(2, 2, 0.0, ("to_q",)),
        dtype=torch.float32,
        seed=1,
    )
    path = made.write(folder, made.values(), {})
    assert adapter_files.read(path).modules
    return path


CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "a manifest that leads out": lambda f: (f / "manifest.json").write_text('{"../../x": "0"}'),
    "an absolute manifest": lambda f: (f / "manifest.json").write_text('{"/dev/zero": "0"}'),
    "a manifest of a device": lambda f: (
        (f / "zero").symlink_to("/dev/zero"), (f / "manifest.json").write_text('{"zero": "0"}')),
    "a manifest that is a list": lambda f: (f / "manifest.json").write_text("[1]"),
    "a manifest that is a pipe": lambda f: (
        (f / "manifest.json").unlink(), os.mkfifo(f / "manifest.json")),
    "a state that is a list": lambda f: (f / "state.json").write_text("[1]"),
    "a state without format": lambda f: (f / "state.json").write_text("{}"),
    "a state that is a pipe": lambda f: ((f / "state.json").unlink(), os.mkfifo(f / "state.json")),
    "nested": lambda f: (f / "state.json").write_text("[" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_of_any_kind_is_called_damaged(
    case: str, adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = adapter.parent
    (folder / "state.json").write_text('{"format": 2, "step": 3}')
    (folder / "manifest.json").write_text("{}")
    CHECKPOINTS[case](folder)
    monkeypatch.setattr("sys.argv", ["sd3tune", "inspect", str(folder)])
    cli.main()
    assert "damaged: " in capsys.readouterr().out.splitlines()[0]
    code, lines = said(["export", str(folder), "--to", "comfyui"], monkeypatch, capsys)
    assert code == 1 and "is damaged" in lines[0]
