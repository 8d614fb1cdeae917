"""What `sample` understands: sources and their strengths, prompts, options; and what it refuses."""

import json
import re
from pathlib import Path

import pytest

from sd3tune.drawing.drawing_sources import find_sources, split_strength
from sd3tune.drawing.picture_paths import paths_of
from sd3tune.drawing.prompt_list import prompts_of
from sd3tune.drawing.recorded_picture import pictures_of
from sd3tune.errors import ConfigError, ModelError
from tests import safetensors_files
from tests.commands import exit_code

MEDIUM = "stabilityai/stable-diffusion-3.5-medium"
KEYS = "transformer.transformer_blocks.0.attn2.to_q"


def adapter(path: Path, width: int = 1536, **metadata: str) -> Path:
    shapes = {f"{KEYS}.lora_A.weight": (4, width), f"{KEYS}.lora_B.weight": (width, 4)}
    return safetensors_files.write(path, shapes, metadata=metadata)


@pytest.mark.parametrize(
    "text, path, strength",
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("a.safetensors:.5", "a.safetensors", 0.5),
        ("folder:2", "folder", 2.0),
        ("C:\\a.safetensors", "C:\\a.safetensors", 1.0),
        ("a:b", "a:b", 1.0),
    ],
)
def test_a_strength_follows_a_colon(text: str, path: str, strength: float) -> None:
    assert split_strength(text, 1.0) == (Path(path), strength)


def test_a_file_whose_name_ends_like_a_strength_is_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd:2").mkdir()
    assert split_strength("odd:2", 1.0) == (Path("odd:2"), 1.0)


def test_the_base_model_of_an_adapter_follows_from_its_tensors(tmp_path: Path) -> None:
    found = find_sources(str(adapter(tmp_path / "cats.safetensors")), strength=0.7)
    assert found.model.source == MEDIUM and "second attention" in found.because
    assert (found.title, found.weights, found.adapters[0].strength) == ("cats", "last", 0.7)


def test_the_base_model_that_the_metadata_names_counts_first(tmp_path: Path) -> None:
    large = "stabilityai/stable-diffusion-3.5-large"
    found = find_sources(str(adapter(tmp_path / "a.safetensors", ss_sd_model_name=large)))
    assert found.model.source == large and "its metadata" in found.because


def test_an_unknown_base_model_is_asked_for(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a.safetensors", width=192)
    with pytest.raises(ConfigError, match=r"the base model of .* is not known here") as refused:
        find_sources(str(path))
    assert "--model" in refused.value.hint
    assert find_sources(str(path), model="models/tiny").model.source == "models/tiny"


def test_several_adapters_have_strengths_of_their_own(tmp_path: Path) -> None:
    a, b = adapter(tmp_path / "a.safetensors"), adapter(tmp_path / "b.safetensors")
    found = find_sources(f"{a}:0.8", [f"{b}:0.3", str(b)], strength=0.5)
    assert [(s.path.name, s.strength) for s in found.adapters] == [
        ("a.safetensors", 0.8), ("b.safetensors", 0.3), ("b.safetensors", 0.5)
    ]  # fmt: skip
    assert found.title == "a + b + b"


def test_a_repository_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = find_sources(MEDIUM)
    assert found.model.source == MEDIUM and found.adapters == () and found.weights == "base"


def test_prompts_come_from_words_lines_lists_and_libraries(tmp_path: Path) -> None:
    text, library, many = (tmp_path / name for name in ("a.txt", "b.json", "c.json"))
    text.write_text("a cat\n\n# a remark\n  a dog  \n")
    library.write_text(json.dumps({"fox": "a red fox", "owl": {"prompt": "an owl"}}))
    many.write_text(json.dumps(["a cat", "süße Katze 灰色"]))
    found = prompts_of(["a cat"], [text, library, many])
    assert [(p.shortname, p.text) for p in found] == [
        ("a-cat", "a cat"), ("a-cat-2", "a cat"), ("a-dog", "a dog"), ("fox", "a red fox"),
        ("owl", "an owl"), ("a-cat-3", "a cat"), ("süße-Katze-灰色", "süße Katze 灰色"),
    ]  # fmt: skip


@pytest.mark.parametrize("prompt", ["../../etc/passwd", "/", "…", "a" * 5000, "x\ny"])
def test_a_name_made_of_a_prompt_is_the_name_of_a_file(prompt: str) -> None:
    [found] = prompts_of([prompt], [])
    assert re.fullmatch(r"[\w-]{1,41}", found.shortname)


def test_no_picture_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "cat_s1_64x64.png").touch()
    paths = paths_of(tmp_path, "png")
    names = [paths("cat", 1, (64, 64)).name for _ in range(2)]
    assert names == ["cat_s1_64x64-2.png", "cat_s1_64x64-3.png"]


REFUSED = {
    # name: (words, in the error, in the hint)
    "no such source": (["nowhere.safetensors", "a cat"], "`nowhere.safetensors` does not exist", "output folder of a run"),
    "no prompt": ([MEDIUM], "there is no prompt", "--prompts FILE"),
    "no such prompts": ([MEDIUM, "--prompts", "p.txt"], "no such file of prompts: `p.txt`", "sd3tune demo"),
    "an empty prompts file": ([MEDIUM, "--prompts", "remarks.txt"], "`remarks.txt` holds no prompt", "each line"),
    "a list of numbers": ([MEDIUM, "--prompts", "numbers.json"], "'1' is not a prompt", "a cat"),
    "a strength of one prompt": ([MEDIUM, "--prompts", "library.json"], "entry `fox`: adapter_strength", "--strength"),
    "a picture": (["a.png", "a cat"], "`a.png` is not a safetensors file", "safetensors format"),
    "an empty folder": (["empty", "a cat"], "`empty` holds no adapter", "output folder"),
    "a text encoder's LoRA": (["text.safetensors", "a cat"], "text encoders are adapted too", "inspect"),
    "another file": (["other.safetensors", "a cat"], "is not an adapter of SD3", "inspect"),
    "a strength of a model": ([f"{MEDIUM}:0.5", "a cat"], "is a model, which has no strength", "leave"),
    "a model twice": ([MEDIUM, "a cat", "--model", "m"], "the first argument is a model already", "--adapter"),
    "a size beside the grid": ([MEDIUM, "a cat", "--size", "1000x1000"], "multiples of 16", "992x992"),
    "no size": ([MEDIUM, "a cat", "--size", "big"], "is not a size", "1024x1024"),
    "beyond the positions": ([MEDIUM, "a cat", "--size", "8192x64"], "beyond the positions of sd3.5-medium", "6144"),
    "no steps": ([MEDIUM, "a cat", "--steps", "0"], "`--steps 0` must be from 1", "28"),
    "negative guidance": ([MEDIUM, "a cat", "--guidance=-1"], "`--guidance -1` must be from 0", "no guidance"),
    "a word for the shift": ([MEDIUM, "a cat", "--shift", "x"], "`--shift x` must be a number", "3"),
    "no shift": ([MEDIUM, "a cat", "--shift", "0"], "`--shift 0` must be a number above 0", "3"),
    "Heun with a dynamic shift": ([MEDIUM, "a cat", "--shift", "auto", "--sampler", "heun"], "the sampler `heun`", "euler"),
    "a block beyond the last": ([MEDIUM, "a cat", "--skip-layers", "7,24"], "block 24 does not exist, sd3.5-medium has 24", "0 to 23"),
    "no blocks": ([MEDIUM, "a cat", "--skip-layers", "seven"], "must be block numbers", "7,8,9"),
    "a scale without blocks": ([MEDIUM, "a cat", "--skip-scale", "2"], "no layer is skipped", "--skip-layers"),
    "an empty window": ([MEDIUM, "a cat", "--skip-layers", "7", "--skip-start", "0.5", "--skip-stop", "0.2"], "leave no step", "0.01"),
    "a negative seed": ([MEDIUM, "a cat", "--seed=-1"], "`--seed -1` must be from 0", "42"),
    "a scheme that nobody has": ([MEDIUM, "a cat", "--quantise", "int3"], "'int3' is not one of", "--help"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_drawn_is_refused_in_one_error_before_anything_is_loaded(
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"\x89PNG")
    Path("empty").mkdir()
    Path("remarks.txt").write_text("# nothing\n")
    Path("numbers.json").write_text("[1]")
    Path("library.json").write_text('{"fox": {"prompt": "a fox", "adapter_strength": 0.5}}')
    clip = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    own = {f"{clip}.lora_A.weight": (4, 8), f"{clip}.lora_B.weight": (8, 4)}
    shapes = {f"{KEYS}.lora_A.weight": (4, 8), f"{KEYS}.lora_B.weight": (8, 4)}
    safetensors_files.write(Path("text.safetensors"), own | shapes)
    safetensors_files.write(Path("other.safetensors"), {"weight": (2, 2)})
    words, error, hint = REFUSED[case]
    assert exit_code(["sample", *words, "--dry-run"], monkeypatch) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("error: ") == 1, err
    assert error in " ".join(err.split()) and hint in err.partition("hint: ")[2], err


def test_all_problems_of_a_command_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sample", MEDIUM, "a cat", "--size", "100", "--steps", "0", "--skip-layers", "99"]
    assert exit_code(words, monkeypatch) == 1
    assert capsys.readouterr().err.count("error: ") == 3


def test_an_adapter_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(adapter(tmp_path / "b.safetensors").read_bytes()[:-3])
    with pytest.raises(ModelError):
        find_sources(str(path))


def test_a_folder_without_a_card_is_one_error_that_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no model card") as error:
        pictures_of(tmp_path)
    assert "name a picture" in error.value.hint
