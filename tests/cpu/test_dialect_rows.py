"""One row per dialect: a row that is added to the table is everywhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sd3tune import cli
from sd3tune.config.config import Config
from sd3tune.config.document import document
from sd3tune.filesystem import safetensors_header
from sd3tune.formats import adapter_files
from sd3tune.formats.adapter_weights import AdapterFile, LoraWeights
from sd3tune.formats.identify import identify
from sd3tune.formats.writers import size_bytes
from sd3tune.tables import dialects
from sd3tune.tables.dialects import DIALECTS, Dialect, Keys
from sd3tune.tables.table import load
from tests import safetensors_files

MODULE = "transformer_blocks.3.attn.to_q"
MADE_UP = Dialect(
    "made-up",
    "a dialect that a test made up",
    Keys("net-", "diffusers", flat=True, read_by=("ComfyUI",)),
    ((".narrow", "down"), (".wide", "up"), (".strength", "alpha")),
    writer="sd3tune.formats.writers:comfyui",
    programs="a program that a test made up",
    remarks="none",
    cannot_hold="nothing",
    aliases=("made-up-too",),
)


@pytest.fixture
def made_up() -> Iterator[None]:
    with DIALECTS.extended(MADE_UP):
        yield


def run(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["sd3tune", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
        raise SystemExit(0)
    return int(ended.value.code or 0), *capsys.readouterr()


def test_an_added_dialect_is_an_export_and_is_read_again(
    made_up: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code, said, _ = run(["export", "--help"], monkeypatch, capsys)
    assert code == 0 and f"[{'|'.join(DIALECTS)}]" in said and "made-up" in DIALECTS
    down, up = torch.randn(2, 8), torch.randn(8, 2)
    source = tmp_path / "source.safetensors"
    adapter_files.write(source, AdapterFile({MODULE: LoraWeights(down, up, 4.0)}), "comfyui")
    code, said, err = run(["export", str(source), "--to", "made-up-too"], monkeypatch, capsys)
    target = tmp_path / "source.made-up.safetensors"
    assert code == 0 and f"wrote  {target}" in said, err
    header = safetensors_header.read(target)
    name = "net-transformer_blocks_3_attn_to_q"
    assert set(header.tensors) == {f"{name}.narrow", f"{name}.wide", f"{name}.strength"}
    assert header.metadata["sd3tune_dialect"] == "made-up"
    again = adapter_files.read(target).modules[MODULE]
    assert isinstance(again, LoraWeights) and again.alpha == 4
    assert torch.equal(again.down, down) and torch.equal(again.up, up)


def test_an_added_dialect_is_recognised_and_only_while_it_is_there(tmp_path: Path) -> None:
    name = f"net-{MODULE.replace('.', '_')}"
    shapes = {f"{name}.narrow": [2, 1536], f"{name}.wide": [1536, 2]}
    path = safetensors_files.write(tmp_path / "a.safetensors", shapes, {f"{name}.strength": 1.0})
    with DIALECTS.extended(MADE_UP):
        seen = identify(path).adapter
    assert seen is not None and seen.dialect == "net- + diffusers names"
    assert seen.scales == {"0.5": 1} and seen.targets == {"attn.to_q": 1}
    verdicts = {program: verdict.reads for program, verdict in seen.readers.items()}
    assert verdicts == {"sd3tune": "yes", "diffusers": "no", "ComfyUI": "yes"}
    assert identify(path).kind == "other"


def test_an_added_dialect_is_a_setting_and_documented(made_up: None) -> None:
    values = {"output_dir": "o", "data_backend_config": "d", "max_train_steps": 10}
    assert Config(**values, lora_format="made-up").lora_format == "made-up"
    with pytest.raises(ValueError, match=r"must be one of 'diffusers', .*'made-up'"):
        Config(**values, lora_format="made-op")
    assert "`made-up`" in document()
    assert "| a program that a test made up | `--to made-up` | none |" in dialects.markdown()


def test_the_bytes_of_an_added_dialect_are_foretold(made_up: None, tmp_path: Path) -> None:
    adapter = {MODULE: LoraWeights(torch.randn(2, 8), torch.randn(8, 2), 4.0)}
    path = tmp_path / "a.safetensors"
    adapter_files.write(path, AdapterFile(adapter), "made-up")
    assert size_bytes(adapter, "made-up") == 4 * (2 * 8 + 8 * 2) < path.stat().st_size


def test_every_function_that_a_row_names_is_there() -> None:
    for row in DIALECTS.rows:
        assert callable(load(row.writer)), row.name


def test_programs_that_read_a_prefix_are_known() -> None:
    named = {p for row in dialects.rows() for keys in row.every_keys for p in keys.read_by}
    assert named == set(dialects.PROGRAMS)
