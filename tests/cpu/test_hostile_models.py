"""Models and adapters of strangers: whatever a file of a project is replaced by, a command says one
error and one hint, runs none of its code, reads nothing outside of it, and does not wait."""

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sd3tune.adapters import full
from sd3tune.errors import ModelError
from sd3tune.sd3 import weights
from sd3tune.sd3.text import TextEncoders
from sd3tune.sd3.variants import ModelSource
from tests.cpu.hostile import MODEL, PLAN, said


def replaced(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def after(make: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    def go(path: Path, _: bytes) -> None:
        path.unlink()
        make(path)

    return go


SPOILT: dict[str, Callable[[Path, bytes], object]] = {
    "a pipe": after(os.mkfifo),
    "a device": after(lambda p: p.symlink_to("/dev/zero")),
    "a folder": after(Path.mkdir),
    "a link to nothing": after(lambda p: p.symlink_to("nowhere")),
    "cut off": lambda p, data: replaced(p, data[: len(data) // 2]),
    "noise": lambda p, _: replaced(p, random.Random(0).randbytes(300)),
    "nested": lambda p, _: replaced(p, b"[" * 100_000),
    "null": lambda p, _: replaced(p, b"null"),
}
HARMLESS = {"user_prompt_library.json"}  # not read by plan


@pytest.mark.parametrize("kind", SPOILT)
def test_every_file_of_a_project_can_be_anything(
    kind: str, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [
        p for part in ("config", MODEL) for p in sorted((own / part).rglob("*")) if p.is_file()
    ]
    assert len(paths) > 20 and said(PLAN, monkeypatch, capsys) == (0, [])
    for path in paths:
        data = path.read_bytes()
        SPOILT[kind](path, data)
        code, lines = said(PLAN, monkeypatch, capsys)
        if path.name not in HARMLESS:
            assert (code == 1 and path.name in lines[0]) or path.parent.name in lines[0], lines
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        path.write_bytes(data)


NUMBERS: dict[str, Any] = {
    "too many": 100_000, "more than a number has": 10**400, "negative": -1, "none": 0,
    "a fraction": 2.5, "text": "3", "NaN": math.nan, "infinite": math.inf, "true": True,
    "a list": [3], "null": None, "an object": {},
}  # fmt: skip
KEYS = ("num_layers", "num_attention_heads", "attention_head_dim", "joint_attention_dim",
        "pooled_projection_dim", "pos_embed_max_size", "in_channels")  # fmt: skip


@pytest.mark.parametrize("value", NUMBERS)
def test_a_transformer_of_impossible_size_is_refused_before_anything_is_counted(
    value: str, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own / MODEL / "transformer/config.json"
    data = json.loads(path.read_text())
    for key in KEYS:
        path.write_text(json.dumps(data | {key: NUMBERS[value]}))
        code, lines = said(PLAN, monkeypatch, capsys)
        assert code == 1 and key in lines[0], lines
        path.write_text(json.dumps({k: v for k, v in data.items() if k != key}))
        assert said(PLAN, monkeypatch, capsys)[0] == 1


@pytest.mark.parametrize(
    "part, changes, words",
    [
        ("transformer", {"num_layers": 4}, "num_layers=4, but the weights beside it have 3"),
        ("transformer", {"dual_attention_layers": [0, 99]}, "dual_attention_layers"),
        ("transformer", {"dual_attention_layers": [0, 0]}, "dual_attention_layers"),
        ("transformer", {"dual_attention_layers": ["a"]}, "dual_attention_layers"),
        ("transformer", {"patch_size": 3}, "patch_size=3"),
        ("text_encoder_3", {"num_layers": 9}, "num_layers=9, but the weights beside it have 2"),
        ("text_encoder", {"num_hidden_layers": 100_000}, "num_hidden_layers` is 100000"),
        ("text_encoder_2", {"vocab_size": 10**12}, "vocab_size` is 1000000000000"),
        ("vae", {"layers_per_block": 5000}, "layers_per_block` is 5000"),
        ("vae", {"block_out_channels": [1] * 1000}, "a list of 1,000"),
        ("vae", {"scaling_factor": math.nan}, "scaling_factor` is nan"),
    ],
)
def test_configurations_of_parts_are_bounded_and_fit_their_weights(
    part: str,
    changes: dict[str, Any],
    words: str,
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = own / MODEL / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    code, lines = said(PLAN, monkeypatch, capsys)
    assert code == 1 and words in lines[0], lines


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_3"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_a_pickle_is_refused_by_its_name(
    part: str,
    name: str,
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in (own / MODEL / part).glob("*.safetensors"):
        path.rename(path.with_name(name))
    code, lines = said(PLAN, monkeypatch, capsys)
    assert code == 1 and f"{part}/{name}` is a pickle" in lines[0] and "convert" in lines[1]


class Touch:
    """What a pickle can do: it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_no_loader_opens_a_pickle(part: str, own: Path, tmp_path: Path) -> None:
    """Past the check by name: the libraries themselves are told."""
    folder, done = own / MODEL / part, tmp_path / "done"
    for path in folder.glob("*.safetensors"):
        path.unlink()
    kind = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    torch.save({"weight": Touch(done)}, folder / kind)
    load: dict[str, Callable[[], object]] = {
        "transformer": lambda: weights.transformer(MODEL, "fp32"),
        "vae": lambda: weights.vae(MODEL, "fp32"),
        "text_encoder": lambda: TextEncoders.load(
            MODEL, dtype="fp32", t5_tokens=77, width=96, zero_padding=False
        ),
    }
    with pytest.raises(ModelError):
        load[part]()
    assert not done.exists()


@pytest.mark.parametrize(
    "entry",
    [["evil", "Class"], ["os", "system"], ["transformers", "a.b"], ["diffusers", 3], ["x"]],
)
def test_a_model_imports_nothing_but_the_two_libraries(
    entry: list[Any], own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own / MODEL / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scheduler": entry}))
    code, lines = said(PLAN, monkeypatch, capsys)
    assert code == 1 and "part `scheduler`" in lines[0]
    code, lines = said(["inspect", MODEL], monkeypatch, capsys)
    assert code == 1 and "part `scheduler`" in lines[0]


def test_code_that_a_model_brings_is_not_run(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = tmp_path / "done"
    for part in ("text_encoder", "tokenizer", "tokenizer_3"):
        name = "config.json" if part == "text_encoder" else "tokenizer_config.json"
        path = own / MODEL / part / name
        mapped = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoModel": "evil.Evil",
                  "AutoConfig": "evil.Evil"}  # fmt: skip
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": mapped}))
        (path.parent / "evil.py").write_text(f"open({str(done)!r}, 'w')\nclass Evil: pass\n")
        (path.parent / f"{part}.py").write_text(f"open({str(done)!r}, 'w')\n")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    TextEncoders.load(MODEL, dtype="fp32", t5_tokens=77, width=96, zero_padding=False)
    assert not done.exists()


INDEXES: dict[str, tuple[Any, str]] = {
    "above": ({"weight_map": {"a": "../secret.safetensors"}}, "`../secret.safetensors`"),
    "absolute": ({"weight_map": {"a": "/etc/passwd"}}, "`/etc/passwd`"),
    "a pickle": ({"weight_map": {"a": "model.bin"}}, "`model.bin`"),
    "missing": ({"weight_map": {"a": "not.safetensors"}}, "which is missing"),
    "no map": ({}, "has no weight_map"),
    "a list": ({"weight_map": ["a"]}, "has no weight_map"),
    "numbers": ({"weight_map": {"a": 3}}, "`3`"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_of_shards_stays_in_its_folder(
    case: str, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document, words = INDEXES[case]
    name = "diffusion_pytorch_model.safetensors.index.json"
    (own / MODEL / "transformer" / name).write_text(json.dumps(document))
    code, lines = said(PLAN, monkeypatch, capsys)
    assert code == 1 and name in lines[0] and words in lines[0], lines


def test_a_tokenizer_without_its_words_is_refused(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library would make an empty one, and train on captions of unknown words."""
    (own / MODEL / "tokenizer" / "tokenizer.json").unlink()
    code, lines = said(PLAN, monkeypatch, capsys)
    assert code == 1 and "holds no vocabulary" in lines[0]


@pytest.mark.parametrize("part", ["tokenizer/tokenizer.json", "text_encoder_3/config.json"])
def test_what_only_the_libraries_can_judge_is_one_error_too(part: str, own: Path) -> None:
    (own / MODEL / part).write_text("{}")
    with pytest.raises(ModelError, match="damaged or of another kind"):
        TextEncoders.load(MODEL, dtype="fp32", t5_tokens=77, width=96, zero_padding=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"joint_blocks.99999999.x_block.attn.qkv.weight": (3, 1)},
        {f"joint_blocks.{'9' * 5000}.x_block.attn.qkv.weight": (3, 1)},
        {"joint_blocks.one.x_block.attn.qkv.weight": (3, 1)},
        {"x_embedder.proj.weight": (4,)},
        {"pos_embed": (1, 0, 4)},
        {"context_embedder.weight": ()},
    ],
)
def test_a_single_file_of_any_shape_is_one_error(
    changes: dict[str, tuple[int, ...]],
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from sd3tune.sd3.original import to_original

    state = weights.state(own / MODEL / "transformer")
    tensors = to_original(state) | {
        f"model.diffusion_model.{name}": torch.zeros(shape) for name, shape in changes.items()
    }
    save_file(tensors, own / "one.safetensors")
    one = f"pretrained_transformer_model_name_or_path={own / 'one.safetensors'}"
    for words in (["inspect", "one.safetensors"], [*PLAN[:2], one, *PLAN[2:]]):
        code, lines = said(words, monkeypatch, capsys)
        assert code == 1 and "one.safetensors" in lines[0], lines


def test_what_a_model_links_to_is_not_copied_beside_the_result(own: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("precious")
    (own / MODEL / "tokenizer" / "more").symlink_to(secret)
    os.mkfifo(own / MODEL / "tokenizer" / "pipe")
    source = ModelSource.of(str(own / MODEL))
    model = weights.transformer(source, "fp32")
    trained = full.attach(model, source, dtype=torch.float32)
    result = trained.write(tmp_path / "out", trained.values(), {})
    assert (result / "tokenizer" / "tokenizer.json").exists()
    assert sorted(p.name for p in (result / "tokenizer").iterdir()) == [
        "tokenizer.json", "tokenizer_config.json"]  # fmt: skip
