"""Files that somebody else put there: pipes, devices, links, damaged headers. One error each."""

import contextlib
import errno
import json
import math
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import SafetensorError, safe_open

from sd3tune import cli
from sd3tune.backends.decide import chips
from sd3tune.backends.observe import recorded_machine
from sd3tune.backends.observe.facts import to_json
from sd3tune.errors import ConfigError, ModelError
from sd3tune.filesystem import cachedir, drafts, opening, safetensors_header
from sd3tune.formats import scale
from sd3tune.sd3 import finite, models
from tests import safetensors_files
from tests.special_files import socket_at

LORA = "transformer.transformer_blocks.0.attn.to_q.lora_{}.weight"


def refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """The `error:` line of a command that ends with exit code 1 and one hint."""
    monkeypatch.setattr("sys.argv", ["sd3tune", *words])
    with pytest.raises(SystemExit) as e:
        cli.main()
    lines = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("note: ")]
    assert e.value.code == 1 and [x.split(":")[0] for x in lines] == ["error", "hint"], lines
    return lines[0]


def tensor(**changes: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


GOOD = json.dumps(tensor()).encode()
HEADERS: dict[str, bytes] = {
    "a type nobody has": json.dumps(tensor(dtype="Q9")).encode(),
    "a type that is a number": json.dumps(tensor(dtype=1)).encode(),
    "more values than bytes": json.dumps(tensor(shape=[3])).encode(),
    "more values than a computer has": json.dumps(tensor(shape=[2**40] * 3)).encode(),
    "a million dimensions": json.dumps(tensor(shape=[2] * 1_000_000)).encode(),
    "a negative size": json.dumps(tensor(shape=[-2])).encode(),
    "a fraction": json.dumps(tensor(shape=[2.0])).encode(),
    "true for a size": json.dumps(tensor(shape=[True, 2])).encode(),
    "text for a shape": json.dumps(tensor(shape="2")).encode(),
    "beyond the file": json.dumps(tensor(data_offsets=[0, 16], shape=[4])).encode(),
    "before the file": json.dumps(tensor(data_offsets=[-8, 0])).encode(),
    "backwards": json.dumps(tensor(data_offsets=[8, 0])).encode(),
    "one offset": json.dumps(tensor(data_offsets=[0])).encode(),
    "no offsets": b'{"x": {"dtype": "F32", "shape": [2]}}',
    "no shape": b'{"x": {"dtype": "F32", "data_offsets": [0, 8]}}',
    "a hole": json.dumps(tensor(data_offsets=[4, 8], shape=[1])).encode(),
    "bytes of nobody": json.dumps(tensor(data_offsets=[0, 4], shape=[1])).encode(),
    "bytes of two": GOOD[:-1] + b", " + GOOD[1:].replace(b'"x"', b'"y"'),
    "one tensor twice": GOOD[:-1] + b", " + GOOD[1:],
    "one key twice": GOOD.replace(b'"dtype": "F32"', b'"dtype": "F32", "dtype": "I32"'),
    "metadata that is not text": json.dumps({"__metadata__": {"a": 1}} | tensor()).encode(),
    "metadata that is a list": json.dumps({"__metadata__": []} | tensor()).encode(),
    "a tensor that is a number": b'{"x": 3}',
    "not an object": b"[]",
    "not JSON": b"{",
    "not Unicode": b'{"\xff": 1}',
    "nested without end": b'{"x":' * 20_000,
    "a number without end": GOOD.replace(b"[0, 8]", b"[0, 1" + b"0" * 5000 + b"]"),
    "NaN": GOOD.replace(b"[2]", b"[NaN]"),
    "more tensors than any model": json.dumps({
        f"y{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_001)
    } | tensor()).encode(),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_a_damaged_header_is_never_an_adapter(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = LORA.format("A").encode()
    text = HEADERS[case].replace(b'"x"', b'"' + name + b'"')
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    said = refused(["inspect", str(path)], monkeypatch, capsys)
    assert f"`{path}` has a damaged header" in said and len(said) < 2100


def test_nothing_passes_that_the_library_refuses(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    good = safetensors_files.write(
        path, {"a": [2, 3], "b": []}, {"c": 2.0}, {"k": "v"}
    ).read_bytes()
    assert safetensors_header.read(path).tensors["a"].shape == (2, 3)
    passed = 0
    for at in range(8, len(good) - 30, 3):  # every few bytes, one changed
        for value in (0x20, 0x30, 0x2D, 0x22):
            path.write_bytes(good[:at] + bytes([value]) + good[at + 1 :])
            try:
                safetensors_header.read(path)
            except ModelError:
                continue
            passed += 1
            try:
                safe_open(path, framework="np")
            except SafetensorError:
                pytest.fail(f"byte {at} as {value}")
    assert passed  # changed letters of a name


@pytest.mark.parametrize("length", [0, 1, 10**12, 2**63, 2**64 - 1])
def test_a_header_is_not_longer_than_its_file(length: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match=r"only its beginning|damaged header"):
        safetensors_header.read(path)


SPOILT: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda p: p.symlink_to("/dev/zero"),
    "a device that is empty": lambda p: p.symlink_to("/dev/null"),
    "a folder": Path.mkdir,
    "a link to nothing": lambda p: p.symlink_to("nowhere"),
    "a link to itself": lambda p: p.symlink_to(p.name),
    "a socket": socket_at,
}


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "FILE.safetensors"],
        pytest.param(["export", "FILE.safetensors", "--to", "comfyui"],
                     marks=pytest.mark.needs_torch),
        ["plan", "FILE.json"],
        ["plan", "FILE.env"],
        ["plan", "config.json", "--on", "FILE.json"],
        ["plan", "config.json", "--on", "h100", "init_lora=FILE.safetensors"],
        ["plan", "config.json", "--on", "h100", "data_backend_config=FILE.json"],
        ["plan", "config.json", "--on", "h100", "pretrained_model_name_or_path=FILE.safetensors"],
        ["plan", "config.json", "--on", "h100",
         "pretrained_transformer_model_name_or_path=FILE.safetensors"],
        ["plan", "config.json", "--on", "h100", "lora_type=lycoris", "lycoris_config=FILE.json"],
        ["dataset", "FILE.json"],
    ],
)  # fmt: skip
def test_what_is_not_a_regular_file_is_refused_and_not_waited_for(
    words: list[str],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Image.new("RGB", (640, 480)).save("photos/a.png")
    Path("data.json").write_text(json.dumps([
        {"id": "d", "instance_data_dir": "photos", "cache_dir_vae": "cache"},
        {"id": "text", "dataset_type": "text_embeds", "default": True}]))  # fmt: skip
    Path("config.json").write_text(json.dumps({
        "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-medium",
        "data_backend_config": "data.json", "output_dir": "o", "max_train_steps": 1}))  # fmt: skip
    name = next(part for word in words for part in [word.split("=")[-1]] if "FILE" in part)
    SPOILT[kind](tmp_path / name)
    assert name in refused(words, monkeypatch, capsys)


def test_a_pipe_is_refused_by_a_process_of_its_own_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    command = [sys.executable, "-m", "sd3tune", "inspect", str(tmp_path / "a.safetensors")]
    done = subprocess.run(command, capture_output=True, timeout=60, text=True, check=False)
    assert done.returncode == 1 and "it is a pipe, not a regular file" in done.stderr


BAD = {"NaN": math.nan, "infinity": math.inf, "minus infinity": -math.inf}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("dtype, code", [("F64", "<d"), ("F32", "<f"), ("F16", "<e")])
def test_nan_in_init_lora_is_found_before_anything_is_loaded(
    value: str, dtype: str, code: str, tmp_path: Path
) -> None:
    data = struct.pack(code[0] + 3 * code[1], 1.0, -2.0, BAD[value])
    assert path_of(tmp_path, dtype, data[: -len(data) // 3]) is not None
    with pytest.raises(ModelError, match="`x` holds NaN or infinity"):
        finite.check(path_of(tmp_path, dtype, data))


@pytest.mark.parametrize(
    "dtype, whole, broken",
    [
        ("BF16", b"\x7f\x7f", b"\x80\x7f"),
        ("BF16", b"\x80\xff"[::-1], b"\xc0\xff"),
        ("F8_E5M2", b"\x7b", b"\x7c"),
        ("F8_E4M3", b"\x7e", b"\xff"),
    ],
)
def test_types_that_python_has_not_are_looked_at_by_their_bits(
    dtype: str, whole: bytes, broken: bytes, tmp_path: Path
) -> None:
    finite.check(path_of(tmp_path, dtype, whole))
    with pytest.raises(ModelError, match="holds NaN"):
        finite.check(path_of(tmp_path, dtype, whole + broken))


def path_of(folder: Path, dtype: str, data: bytes) -> Path:
    shape = [8 * len(data) // safetensors_header.BITS[dtype]]
    entry = {"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}
    text = json.dumps(entry).encode()
    path = folder / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


SAYINGS: dict[str, dict[str, Any]] = {
    "text": {"lora_alpha": "16"},
    "NaN": {"lora_alpha": math.nan},
    "infinity": {"lora_alpha": math.inf},
    "zero": {"lora_alpha": 0},
    "huge": {"lora_alpha": 1e300},
    "true": {"lora_alpha": True},
    "a list": {"lora_alpha": [1]},
    "patterns of no kind": {"alpha_pattern": 3},
    "a pattern of NaN": {"alpha_pattern": {"to_q": math.nan}},
    "a pattern that takes for ever": {"alpha_pattern": {r"(\w+)+\w+X": 4}},
    "a pattern that is not one": {"alpha_pattern": {"[": 4}},
    "a million patterns": {"alpha_pattern": {f"a{i}": 4 for i in range(100_000)}},
}


@pytest.mark.parametrize("case", SAYINGS)
def test_an_alpha_that_makes_no_sense_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = {LORA.format("A"): [4, 1536], LORA.format("B"): [1536, 4]}
    about = {"lora_adapter_metadata": json.dumps(SAYINGS[case])}
    path = safetensors_files.write(tmp_path / "a.safetensors", shapes, metadata=about)
    assert "alpha cannot be understood" in refused(["inspect", str(path)], monkeypatch, capsys)


def test_a_pattern_means_what_peft_means() -> None:
    said = scale.declared(Path("a"), {"lora_adapter_metadata": json.dumps(
        {"lora_alpha": 2, "alpha_pattern": {"attn.to_q": 4, r".*\.to_k": 6}})})  # fmt: skip
    assert said is not None
    assert [said.of(f"b.attn.{n}", 2) for n in ("to_q", "to_k", "to_v")] == [2, 3, 1]


@pytest.mark.parametrize(
    "shapes, numbers, said",
    [
        ({LORA.format("A"): [0, 1536], LORA.format("B"): [1536, 0]}, {}, "is empty"),
        ({LORA.format("A"): [4, 1536], LORA.format("B"): [1536, 4]},
         {"transformer.transformer_blocks.0.attn.to_q.alpha": 0.0}, "alpha 0"),
    ],
)  # fmt: skip
def test_what_export_refuses_inspect_does_not_call_readable(
    shapes: dict[str, list[int]],
    numbers: dict[str, float],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = safetensors_files.write(tmp_path / "a.safetensors", shapes, numbers)
    monkeypatch.setattr("sys.argv", ["sd3tune", "inspect", str(path)])
    cli.main()
    lines = capsys.readouterr().out.splitlines()
    assert any(x.startswith("  sd3tune      no") and said in x for x in lines)


def test_an_alpha_tensor_of_nan_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = {LORA.format("A"): [4, 1536], LORA.format("B"): [1536, 4]}
    key = "transformer.transformer_blocks.0.attn.to_q.alpha"
    path = safetensors_files.write(tmp_path / "a.safetensors", shapes, {key: math.nan})
    assert f"`{key}` is nan" in refused(["inspect", str(path)], monkeypatch, capsys)


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
def test_a_planted_draft_is_neither_followed_nor_written(kind: str, tmp_path: Path) -> None:
    victim, draft = tmp_path / "bashrc", tmp_path / "file.draft"
    victim.write_text("precious")
    plant: dict[str, Callable[[], object]] = {
        "link": lambda: draft.symlink_to(victim),
        "hard link": lambda: draft.hardlink_to(victim),
        "pipe": lambda: os.mkfifo(draft),
        "folder": lambda: draft.mkdir(),
    }
    plant[kind]()
    with pytest.raises(OSError) as e, drafts.drafted(draft):
        pass
    assert e.value.errno in (errno.EEXIST, errno.EISDIR)
    drafts.clear(draft)
    assert draft.exists() and victim.read_text() == "precious"
    with pytest.raises(OSError), drafts.drafted_by_name(draft):
        pass
    draft.with_name(".whole.tmp").symlink_to(victim)
    with pytest.raises(OSError):
        drafts.write(tmp_path / "whole", b"new")
    assert victim.read_text() == "precious" and not (tmp_path / "whole").exists()


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a device that is empty", "a folder",
                                  "a socket", "standard output"])  # fmt: skip
def test_nothing_is_written_in_the_place_of_what_is_not_a_file(kind: str, tmp_path: Path) -> None:
    """Root could replace /dev/null by a file."""
    path = tmp_path / "a"
    make = SPOILT | {"standard output": lambda p: p.symlink_to("/proc/self/fd/1")}
    make[kind](path)
    with pytest.raises(OSError, match=r"it is not a regular file|it is a folder"):
        drafts.write(path, b"new")
    assert not stat.S_ISREG(path.lstat().st_mode) and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("words", [
    ["doctor", "--no-device", "--quick", "--report", "out"], ["dataset", "photos.json"],
    ["dataset", "photos.json", "--sheet", "out.png"],
])  # fmt: skip
def test_what_a_command_writes_goes_through_no_link(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder where somebody types a command, and output_dir, may have been downloaded."""
    monkeypatch.chdir(tmp_path)
    victim = tmp_path / "bashrc"
    victim.write_text("precious")
    for name in ("out", "out.png", "o/contact_sheet.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).symlink_to(victim)
    Path("photos").mkdir()
    Image.new("RGB", (640, 480)).save("photos/a.png")
    Path("data.json").write_text(json.dumps([
        {"id": "d", "instance_data_dir": "photos", "cache_dir_vae": "cache"},
        {"id": "text", "dataset_type": "text_embeds", "default": True}]))  # fmt: skip
    Path("photos.json").write_text(json.dumps({
        "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-medium",
        "data_backend_config": "data.json", "output_dir": "o", "max_train_steps": 1}))  # fmt: skip
    monkeypatch.setattr("sys.argv", ["sd3tune", *words])
    with contextlib.suppress(SystemExit):
        cli.main()
    assert victim.read_text() == "precious"
    written = (
        "out.png" if "--sheet" in words else "out" if "doctor" in words else "o/contact_sheet.png"
    )
    assert not Path(written).is_symlink() and Path(written).stat().st_size > 100


def test_a_report_is_not_written_into_a_pipe_that_nobody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "r")
    words = ["doctor", "--no-device", "--quick", "--report", str(tmp_path / "r")]
    assert "cannot be written: it is not a regular file" in refused(words, monkeypatch, capsys)


def test_a_demo_is_not_written_where_a_link_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "d").symlink_to("nowhere")
    said = refused(["demo", str(tmp_path / "d")], monkeypatch, capsys)
    assert "is not a folder" in said


def test_a_demo_in_a_folder_whose_name_is_not_utf_8_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["demo", os.fsdecode(bytes(tmp_path) + b"/\xff")], monkeypatch, capsys)
    assert "is not UTF-8" in said and not list(tmp_path.iterdir())


def test_a_model_in_a_folder_whose_name_is_not_utf_8_is_not_called_damaged(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/\xff"))
    (folder / "model").mkdir(parents=True)
    with pytest.raises(ModelError, match="is not UTF-8"):
        models.find(str(folder / "model"))


def test_a_link_in_the_place_of_a_result_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "bashrc"
    victim.write_text("precious")
    (tmp_path / "a").symlink_to(victim)
    drafts.write(tmp_path / "a", b"new")
    assert victim.read_text() == "precious" and (tmp_path / "a").read_bytes() == b"new"


def test_the_folder_of_a_killed_writer_is_cleared_by_the_next(tmp_path: Path) -> None:
    draft = tmp_path / "file.draft"
    (tmp_path / "file.parts").mkdir()
    (tmp_path / "file.parts" / ".tmpXYZ").write_text("half")
    with drafts.drafted_by_name(draft) as written:
        assert written is not None and not list(written.parent.iterdir())
        with drafts.drafted_by_name(draft) as other:
            assert other is None
        written.write_text("whole")
        drafts.settle(written, tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_tag_of_another_program_is_not_ours(tmp_path: Path) -> None:
    tag = tmp_path / cachedir.TAG
    tag.write_text(f"{cachedir.SIGNATURE}\n# of pip\n")
    cachedir.mark(tmp_path)
    assert not cachedir.is_marked(tmp_path) and "pip" in tag.read_text()
    tag.unlink()
    cachedir.mark(tmp_path)
    assert cachedir.is_marked(tmp_path) and tag.read_text().startswith("Signature: 8a477f597d28d1")


def test_text_has_one_kind_of_line_end_and_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"a\r\nb\rc\n")
    assert opening.text(path) == "a\nb\nc\n"
    os.truncate(path, opening.MAX_TEXT_BYTES + 1)
    with pytest.raises(OSError, match="the limit is 67,108,864"):
        opening.text(path)


def test_a_record_of_an_impossible_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "there.json"
    facts = to_json(chips.facts(chips.chip("h100")))
    path.write_text(json.dumps({"facts": facts}))
    assert recorded_machine.facts(path).devices
    for value in (10**400, -(10**30), math.nan, math.inf, "x", [1]):
        changed = json.loads(json.dumps({"facts": facts}))
        changed["facts"]["devices"][0]["usable_bytes"] = value
        path.write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match="is not what"):
            recorded_machine.facts(path)
    path.write_text(json.dumps({"facts": facts | {"devices": []}}))
    with pytest.raises(ConfigError, match="without a device"):
        recorded_machine.facts(path)
    for text in ("[[1]]", "null", '{"facts": 3}', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is not what"):
            recorded_machine.facts(path)


def test_what_peft_says_beside_a_file_is_read_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = {LORA.format("A"): [4, 1536], LORA.format("B"): [1536, 4]}
    path = safetensors_files.write(tmp_path / "adapter_model.safetensors", shapes)
    os.mkfifo(tmp_path / "adapter_config.json")
    said = refused(["inspect", str(path)], monkeypatch, capsys)
    assert "adapter_config.json` cannot be understood" in said
