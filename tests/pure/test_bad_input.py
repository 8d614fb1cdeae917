"""What people get wrong: one `error:` line that names file, key and value, one `hint:` line, exit
code 1, no traceback, and nothing written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd3tune import cli
from tests.commands import exit_code
from tests.projects import IMAGES, TEXT, Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def refused(
    words: list[str],
    error: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(words, monkeypatch) == 1
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not re.search(r"  \(\d+ s\)$", line)]  # waits
    assert out == "" and len(lines) == 2, err
    assert lines[0].startswith("error: ") and error in lines[0], lines[0]
    assert lines[1].startswith("hint: ") and hint in lines[1], lines[1]
    assert lines[1].removeprefix("hint: ").strip()


Spoil = Callable[[Project], object]
CASES: dict[str, tuple[Spoil, list[str], str, str]] = {
    # name: (what is spoilt, extra words, in the error, in the hint)
    "unknown key": (lambda p: p.config(lora_ranc=8), [], "`lora_ranc`", "did you mean `lora_rank`"),
    "wrong type": (lambda p: p.config(learning_rate="fast"), [], "`learning_rate=fast` must be a number", "rate"),
    "bool for a number": (lambda p: p.config(lora_rank=True), [], "`lora_rank=true`", "update"),
    "fraction for a count": (lambda p: p.config(lora_rank=1.5), [], "`lora_rank=1.5` must be a whole", "update"),
    "more processes than any machine has": (lambda p: p.config(num_processes=99999999), [], "`num_processes=99999999` must be at most 1024", "one for each device"),
    "below its limit": (lambda p: p.config(lora_rank=0), [], "`lora_rank=0` must be at least 1", "16"),
    "not a number": (lambda p: p.write("config/config.json", '{"output_dir":"o","max_train_steps":1,"learning_rate":NaN}'), [], "learning_rate", "rate"),
    "not a choice": (lambda p: p.config(mixed_precision="fp8"), [], "`mixed_precision=fp8` is not supported: autocast in fp8", "use mixed_precision=bf16"),
    "known and unsupported": (lambda p: p.config(init_lokr_norm=1), [], "`init_lokr_norm=1` is not supported", "leave it out"),
    "torchao's weights": (lambda p: p.config(base_model_precision="int8-torchao"), [], "`base_model_precision=int8-torchao` is not supported: torchao", "use base_model_precision=int8-quanto"),
    "sdnq's weights": (lambda p: p.config(text_encoder_3_precision="uint4-sdnq"), [], "`text_encoder_3_precision=uint4-sdnq` is not supported", "use text_encoder_3_precision=int4-quanto"),
    "precision nobody has": (lambda p: p.config(base_model_precision="int3"), [], "`base_model_precision=int3` must be one of", "Quantisation"),
    "quantised while loading": (lambda p: p.config(quantize_via="pipeline"), [], "`quantize_via=pipeline` is not supported", "use quantize_via=accelerator"),
    "quantised activations": (lambda p: p.config(quantize_activations=True), [], "`quantize_activations=true` is not supported", "base_model_precision"),
    "half a block checkpointed": (lambda p: p.config(gradient_checkpointing_backend="unsloth-ffn"), [], "`gradient_checkpointing_backend=unsloth-ffn` is not supported", "use gradient_checkpointing_backend=unsloth"),
    "another program's offloading": (lambda p: p.config(ramtorch=True), [], "`ramtorch=true` is not supported", "blocks_to_swap"),
    "every block beyond the last": (lambda p: p.config(gradient_checkpointing_interval=25), ["--on", "h200"], "there are 24 blocks", "gradient_checkpointing=false"),
    "more blocks than there are": (lambda p: p.config(blocks_to_swap=25), ["--on", "h200"], "`blocks_to_swap=25`: there are 24 blocks", "at most 24"),
    "swapped and not checkpointed": (lambda p: p.config(blocks_to_swap=2, gradient_checkpointing=False), [], "blocks_to_swap=2 needs every block checkpointed", "gradient_checkpointing=true"),
    "swapped and trained": (lambda p: p.config(blocks_to_swap=2, model_type="full"), [], "blocks_to_swap=2 goes with model_type=lora", "remove one"),
    "swapped and sharded": (lambda p: p.config(blocks_to_swap=2, fsdp_enable=True), [], "blocks_to_swap=2 and fsdp_enable=true are both set", "remove one"),
    "parts of split weights": (lambda p: p.config(batch_split=2, fsdp_enable=True), [], "batch_split=2 and fsdp_enable=true are both set", "leave batch_split out"),
    "dora and compiled": (lambda p: p.config(use_dora=True, dynamo_backend="inductor"), [], "use_dora=true and dynamo_backend=inductor are both set", "remove one"),
    "an interval of nothing": (lambda p: p.config(gradient_checkpointing_interval=2, gradient_checkpointing=False), [], "gradient_checkpointing_interval=2 needs gradient_checkpointing=true", "leave out gradient_checkpointing_interval"),
    "swapped within one memory": (lambda p: p.config(blocks_to_swap=2), ["--on", "m3-max"], "share one memory", "base_model_precision"),
    "quantised on Apple's GPU": (lambda p: p.config(quantize_via="accelerator"), ["--on", "m3-max"], "`quantize_via=accelerator` cannot run", "cpu"),
    "fp8 on Apple": (lambda p: p.config(base_model_precision="fp8-quanto"), ["--on", "m3-max"], "MPS has no fp8", "int8-quanto"),
    "known and without effect": (lambda p: p.config(prediction_type="epsilon"), [], "`prediction_type=epsilon` has no effect", "leave it out"),
    "kind of training": (lambda p: p.config(model_type="controlnet"), [], "`model_type=controlnet` must be one of 'lora', 'full'", "adapter"),
    "full and an adapter": (lambda p: p.config(model_type="full", lora_type="lycoris"), [], "model_type=full trains the weights themselves", "leave one"),
    "full and quantised": (lambda p: p.config(model_type="full", base_model_precision="int8-quanto"), [], "weights that are trained cannot be quantised", "leave `base_model_precision` out"),
    "no lycoris file": (lambda p: p.config(lora_type="lycoris"), [], "no such lycoris_config: `", "demo"),
    "lycoris file without lycoris": (lambda p: p.config(lycoris_config="x.json"), [], "lycoris_config belongs to lora_type=lycoris", "set lora_type=lycoris, or leave out lycoris_config"),
    "pissa on quantised weights": (lambda p: p.config(lora_init_type="pissa", base_model_precision="int8-quanto"), [], "`lora_init_type=pissa` takes part of the weights", "leave `base_model_precision` out"),
    "no such checkpoint": (lambda p: p.config(resume_from_checkpoint="checkpoint-7"), [], "there is no such folder", "latest"),
    "dora for others of split weights": (lambda p: p.config(fsdp_enable=True, use_dora=True, lora_format="comfyui"), [], "lora_format=comfyui of DoRA needs whole weights", "sd3tune export"),
    "too many machines": (lambda p: p.config(num_machines=2, machine_rank=2), [], "machine_rank=2 must be below num_machines=2", "machines are numbered from 0"),
    "sage in training": (lambda p: p.config(sageattention_usage="training"), [], "sageattention_usage=training` is not supported: SageAttention has no backward", "use sageattention_usage=inference"),
    "missing key": (lambda p: p.config(output_dir=...), [], "`output_dir` is missing", "checkpoints"),
    "no length": (lambda p: p.config(max_train_steps=...), [], "neither max_train_steps nor num_train_epochs", "set one"),
    "two lengths": (lambda p: p.config(num_train_epochs=2), [], "are both set", "set one"),
    "warm-up too long": (lambda p: p.config(lr_warmup_steps=10), [], "lr_warmup_steps=10 must be below max_train_steps=10", "lower lr_warmup_steps"),
    "picture size": (lambda p: p.config(validation_resolution="1000x1000"), [], "sides are not multiples of 16", "use validation_resolution=992x992"),
    "skipped block beyond the last": (lambda p: p.config(validation_guidance_skip_layers=[7, 24]), ["--on", "h200"], "block 24 does not exist", "0 to 23"),
    "pictures beyond the positions": (lambda p: p.config(validation_resolution="8192x64"), ["--on", "h200"], "8192x64 is beyond the positions", "6144"),
    "skip layers as words": (lambda p: p.config(validation_guidance_skip_layers="seven"), [], "block numbers", "as [7, 8, 9]"),
    "target that matches nothing": (lambda p: p.config(peft_lora_target_modules=["to_x"]), ["--on", "h200"], "`to_x` matches no linear layer", "to_q"),
    "invalid JSON": (lambda p: p.write("config/config.json", '{\n "output_dir" "x"\n}'), [], "config.json:2:15` is not JSON", "comma"),
    "the same key twice": (lambda p: p.write("config/config.json", '{"output_dir": "o", "max_train_steps": 1, "seed": 1, "seed": 2}'), [], "sets `seed` twice", "remove"),
    "with and without dashes": (lambda p: p.config(**{"seed": 1, "--seed": 2}), [], "sets `seed` twice", "remove"),
    "a list for an object": (lambda p: p.write("config/config.json", "[]"), [], "must hold an object", "demo"),
    "empty file": (lambda p: p.write("config/config.json", ""), [], "config.json` is empty", "demo"),
    "not UTF-8": (lambda p: p.write("config/config.json", b'{"a": "\xff"}'), [], "not UTF-8 at byte 7", "UTF-8"),
    "missing file": (lambda p: (p.root / "config/config.json").unlink(), [], "no such configuration file", "demo"),
    "missing environment variable": (lambda p: p.config(output_dir="{env:NO_SUCH_VAR}"), [], "NO_SUCH_VAR is not set", "export"),
    "missing dataset file": (lambda p: (p.root / "config/multidatabackend.json").unlink(), [], "no such list of datasets", "demo"),
    "missing image folder": (lambda p: p.image(instance_data_dir="nowhere"), [], "nowhere` of dataset `photos`", "start at"),
    "empty image folder": (lambda p: p.empty_photos(), [], "holds no image files", ".png"),
    "unreadable image": (lambda p: p.write("photos/a_red_wall.png", "not a picture"), [], "no usable image", "a_red_wall.png"),
    "empty image file": (lambda p: p.write("photos/a_red_wall.png", ""), [], "the file is empty", "a_red_wall.png"),
    "caption missing": (lambda p: p.image(caption_strategy="textfile"), [], "no caption file a_red_wall.txt", "caption_strategy"),
    "caption empty": (lambda p: (p.image(caption_strategy="textfile"), p.write("photos/a_red_wall.txt", " \n")), [], "a_red_wall.txt is empty", "write a .txt beside each image"),
    "caption not UTF-8": (lambda p: (p.image(caption_strategy="textfile"), p.write("photos/a_red_wall.txt", b"\xff")), [], "not UTF-8", "write a .txt beside each image"),
    "all too small": (lambda p: p.image(minimum_image_size=2048), [], "below minimum_image_size=2048", "a_red_wall.png"),
    "a thread of pixels": (lambda p: Image.new("RGB", (16, 3201)).save(p.root / "photos" / "a_red_wall.png"), [], "16x3201 becomes 64x", "crop=true"),
    "output folder that is a file": (lambda p: p.write("output", "x"), [], "output_dir", "another"),
    "two datasets of one id": (lambda p: p.datasets(IMAGES, IMAGES), [], "two datasets have the id `photos`", "rename"),
    "no id": (lambda p: p.image(id=...), [], "entry 1 has no id", "id"),
    "no image dataset": (lambda p: p.datasets(TEXT), [], "no enabled image dataset", "dataset_type"),
    "dataset key near miss": (lambda p: p.image(crop_stile="center"), [], "unknown setting `crop_stile`", "crop_style"),
    "dataset key not supported": (lambda p: p.image(video={}, i2v_ratio=1), [], "`photos`: `i2v_ratio=1` is not supported", "leave it out"),
    "dataset storage not supported": (lambda p: p.image(type="webshart"), [], "`type=webshart` is not supported", "local"),
    "crop that is no yes or no": (lambda p: p.image(crop="maybe"), [], "`crop=maybe` must be true or false", "Crop images to crop_aspect"),
    "maximum without target": (lambda p: p.image(maximum_image_size=2048), [], "needs target_downsample_size", "both"),
    "megapixels as pixels": (lambda p: p.image(resolution=1024, resolution_type="area"), [], "would be megapixels", "pixel_area"),
    "instance prompt missing": (lambda p: p.image(caption_strategy="instanceprompt"), [], "needs an instance_prompt", "add one"),
    "dataset not an object": (lambda p: p.datasets("photos"), [], "entry 1 is text, not an object", "object"),
    "fewer images than a step": (lambda p: p.config(train_batch_size=2, gradient_accumulation_steps=3), ["--on", "h200"], "= 6", "repeats=5"),
    "model that is nowhere": (lambda p: p.config(pretrained_model_name_or_path="./models/x"), [], "models/x`: there is no such folder or file", "diffusers folder"),
    "a flavour for a model": (lambda p: p.config(pretrained_model_name_or_path="sd3.5-large"), [], "sd3.5-large`: there is no such folder or file", "set model_flavour=sd3.5-large without"),
    "misspelt folder of a model": (lambda p: (p.root / "medium").mkdir() or p.config(pretrained_model_name_or_path="./mediun"), [], "mediun`: there is no such folder or file", "medium? Or give"),
    "page of a model": (lambda p: p.config(pretrained_model_name_or_path="https://huggingface.co/a/b.c/tree/main"), [], "is an address, not the name of a repository", "write pretrained_model_name_or_path=a/b.c"),
    "part of a model": (lambda p: (p.write("m/model_index.json", "{}"), p.write("m/vae/config.json", "{}")), ["pretrained_model_name_or_path=m/vae"], "m/vae` holds no transformer/config.json", "give /"),
    "folder of models": (lambda p: p.write("m/a/transformer/config.json", "{}"), ["pretrained_model_name_or_path=m"], "m` holds no transformer/config.json", "/m/a"),
    "configuration that git-lfs keeps": (lambda p: p.write("m/transformer/config.json", "version https://git-lfs.github.com/spec/v1"), ["pretrained_model_name_or_path=m"], "config.json` is a git-lfs pointer", "git lfs pull"),
    "word that is no setting": (lambda p: None, ["faster"], "`faster` is not KEY=VALUE", "learning_rate=1e-4"),
    "unknown chip": (lambda p: None, ["--on", "rtx4900"], "unknown chip `rtx4900`", "rtx4090"),
    "a file that is no doctor's": (lambda p: p.write("x.json", "{}"), ["--on", "x.json"], "`x.json` is not what `sd3tune doctor --json` prints", "machine.json"),
    "unknown option": (lambda p: None, ["--onn", "t4"], "No such option", "--help"),
    "fp8 on a Mac": (lambda p: p.config(base_model_precision="fp8-quanto"), ["--on", "m3-max"], "base_model_precision=fp8-quanto` cannot run on Apple M3 Max", "int8-quanto, int4-quanto, int2-quanto"),
    "autocast on a Mac": (lambda p: p.config(mixed_precision="bf16"), ["--on", "m1"], "mixed_precision=bf16` cannot run on Apple M1", "usable here: no"),
    "bf16 on a T4": (lambda p: p.config(mixed_precision="bf16"), ["--on", "t4"], "Tesla T4 is sm_75", "fp16, no"),
    "8-bit optimizer on a Mac": (lambda p: p.config(optimizer="bnb-adamw8bit"), ["--on", "m3-max"], "no 8-bit optimiser", "adamw"),
    "a file that is no model": (lambda p: p.write("m.safetensors", "<!DOCTYPE html>" + " " * 99), ["pretrained_model_name_or_path=m.safetensors"], "m.safetensors` is a web page", "download"),
    "GGUF": (lambda p: p.write("m.gguf", "GGUF\3\0\0\0" + " " * 99), ["pretrained_model_name_or_path=m.gguf"], "is a GGUF file", "safetensors"),
    "transformer that is nowhere": (lambda p: p.config(pretrained_transformer_model_name_or_path="./m.safetensors"), [], "m.safetensors` cannot be read", "give the path"),
    "transformer in no such place": (lambda p: p.write("m/config.json", "{}"), ["pretrained_transformer_model_name_or_path=m"], "m` holds no transformer/config.json", "pretrained_transformer_subfolder=."),
    "a file and another transformer": (lambda p: p.write("m.safetensors", "x"), ["pretrained_model_name_or_path=m.safetensors", "pretrained_transformer_model_name_or_path=a/b"], "names another transformer", "text encoders"),
    "model larger than the card": (lambda p: p.config(model_flavour="large", pretrained_model_name_or_path=..., base_model_precision="no_change", blocks_to_swap=0), ["--on", "rtx3060"], "needs about", "nf4-bnb, int4-quanto"),
}  # fmt: skip


# They are refused by what this machine can do, and it is asked for that.
OF_A_MACHINE = ("full and quantised", "pissa on quantised weights")
NAMES = [
    pytest.param(name, marks=pytest.mark.needs_torch) if name in OF_A_MACHINE else name
    for name in CASES
]


def test_a_model_of_another_family_is_one_problem(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What its folder lacks as a folder of SD3 does not matter."""
    project.write("m/transformer/config.json", '{"_class_name": "FluxTransformer2DModel"}')
    words = ["plan", "config/config.json", "pretrained_model_name_or_path=m"]
    assert exit_code(words, monkeypatch) == 1
    out, err = capsys.readouterr()
    error, hint = (line for line in err.splitlines() if ": " in line)
    assert out == "" and "holds a FluxTransformer2DModel, not an SD3 transformer" in error
    assert "Stable Diffusion 3" in hint


def test_a_plan_for_another_machine_needs_no_folder_here(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["config/config.json", "output_dir=/proc/workspace/output"]
    refused(["plan", *words], "output_dir", "choose", monkeypatch, capsys)
    assert exit_code(["plan", *words, "--on", "h100"], monkeypatch) == 0


@pytest.mark.parametrize("case", NAMES)
def test_bad_input_is_two_lines_and_leaves_no_trace(
    case: str,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil, words, error, hint = CASES[case]
    spoil(project)
    before = project.files()
    refused(["plan", "config/config.json", *words], error, hint, monkeypatch, capsys)
    assert project.files() == before


def test_train_refuses_the_same_before_it_looks_at_the_machine(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.config(lora_ranc=8)
    before = project.files()
    assert exit_code(["train", "config/config.json"], monkeypatch) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert project.files() == before


@pytest.mark.needs_torch
def test_the_unspoilt_project_plans(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sd3tune", "plan", "--on", "rtx4090", "--json"])
    cli.main()
    plan = json.loads(capsys.readouterr().out)
    assert plan["decisions"]["mixed_precision"]["value"] == "bf16"
    assert plan["measured"] is False
    assert plan["decisions"]["train_batch_size"] | {"rejected": []} == {
        "value": 1, "source": "user", "file": "config/config.json", "key": "train_batch_size",
        "reason": "set in the configuration", "rejected": [],
    }  # fmt: skip


def test_one_bad_image_is_set_aside_and_the_rest_is_planned(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write("photos/broken.jpg", "nothing")
    monkeypatch.setattr("sys.argv", ["sd3tune", "plan", "--on", "h200"])
    cli.main()
    out, err = capsys.readouterr()
    assert "1 file set aside" in err and "broken.jpg" in err
    assert "mixed_precision" in out


def test_a_machine_can_be_planned_for_from_what_its_doctor_printed(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["sd3tune", *words, "--json"])
        try:
            cli.main()
        except SystemExit as e:
            assert not e.code
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    project.write("rented.json", json.dumps(said("doctor", "--on", "t4")))
    plan = said("plan", "--on", "rented.json")
    assert plan["decisions"]["mixed_precision"]["value"] == "fp16" and not plan["measured"]
    assert "recorded" in plan["decisions"]["device"]["reason"]


RUN = ["run", "--vendor", "cuda", "--print"]
IMAGE_CASES: dict[str, tuple[list[str], str, str]] = {
    # name: (words after `image`, in the error, in the hint)
    "a card that is none": ([*RUN, "--gpus", "abc", "doctor"], "--gpus abc: `abc` does not name an NVIDIA card", "--gpus 0,1"),
    "no card": ([*RUN, "--gpus", "", "doctor"], "--gpus : `` does not name an NVIDIA card", "--cpu"),
    "a card without a number": ([*RUN, "--gpus", "0,,1", "doctor"], "--gpus 0,,1: `` does not name an NVIDIA card", "--gpus 0,1"),
    "a card twice": ([*RUN, "--gpus", "1,1", "doctor"], "`1` is named twice", "--gpus 0,1"),
    "a card of AMD's that is none": (["run", "--vendor", "rocm", "--print", "--gpus", "0:1", "doctor"], "`0:1` does not name an AMD card", "--gpus 0,1"),
    "a card that is none, to check": (["check", "--vendor", "cuda", "--gpus", "abc"], "--gpus abc", "--cpu"),
    "a folder that is not there": ([*RUN, "--mount", "nowhere:/x", "doctor"], "--mount nowhere:/x", "an existing folder"),
    "a folder to nowhere": ([*RUN, "--mount", "photos", "doctor"], "--mount photos", "--mount /data/images:/images"),
    "a folder in no folder": ([*RUN, "--mount", "photos:x", "doctor"], "--mount photos:x", "--mount /data/images:/images"),
    "two folders at one place": ([*RUN, "--mount", "photos:/x", "--mount", "config:/x/", "doctor"], "--mount config:/x/: /x is taken", "another"),
    "a folder over the workspace": ([*RUN, "--mount", "photos:/workspace", "doctor"], "/workspace is taken", "--workspace"),
    "a workspace that is a file": ([*RUN, "--workspace", "config/config.json", "doctor"], "is a file", "--help"),
    "a port that is none": ([*RUN, "--publish", "http:80", "doctor"], "--publish http:80", "--publish 8888:8888"),
    "half a port": ([*RUN, "--publish", "8888", "doctor"], "--publish 8888", "two numbers"),
    "an address that is a name": ([*RUN, "--publish", "localhost:80:80", "doctor"], "--publish localhost:80:80", "127.0.0.1:8888:8888"),
    "a variable that is not set": ([*RUN, "--env", "NO_SUCH_VAR", "doctor"], "--env NO_SUCH_VAR", "export NO_SUCH_VAR"),
    "a variable without a name": ([*RUN, "--env", "=x", "doctor"], "--env =x", "NAME=VALUE"),
    "a size that is none": ([*RUN, "--shm-size", "lots", "doctor"], "--shm-size lots", "16g"),
    "nothing to run": (RUN, "Missing argument 'COMMAND...'", "image run --help"),
    "a misspelt option": ([*RUN, "--gpu", "0", "doctor"], "No such option", "image run --help"),
    "a vendor that is none": (["run", "--vendor", "intel", "--print", "doctor"], "'intel' is not one of 'cuda', 'rocm'", "--help"),
    "an argument without a value": (["build", "--vendor", "cuda", "--build-arg", "LOCK"], "--build-arg LOCK", "LOCK=cpu"),
    "an argument without a name": (["build", "--vendor", "cuda", "--build-arg", "=cpu"], "--build-arg =cpu", "LOCK=cpu"),
    "a code that is none": (["stop-pod", "--after", "x"], "'x' is not a valid integer", "stop-pod --help"),
}  # fmt: skip


@pytest.mark.parametrize("case", IMAGE_CASES)
def test_bad_words_about_images_are_two_lines_and_leave_no_trace(
    case: str,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, error, hint = IMAGE_CASES[case]
    monkeypatch.setenv("HF_HOME", str(project.root / "hub"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{project.root}/none.sock")
    before = project.files()
    refused(["image", *words], error, hint, monkeypatch, capsys)
    assert project.files() == before and not (project.root / "hub").exists()


def test_an_image_for_a_host_without_a_card_must_be_named(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sd3tune.backends.observe import machine

    if any(s.gpus and s.vendor != "cpu" for s in machine.survey().surveys):
        pytest.skip("this host has a card")
    for words in (["run", "--print", "doctor"], ["run", "--cpu", "--print", "doctor"], ["check"]):
        refused(["image", *words], "which image?", "--vendor cuda", monkeypatch, capsys)


def test_a_hugging_face_folder_that_cannot_be_made_is_two_lines(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["image", *RUN, "doctor"]
    for folder in ("config/config.json/hub", "config/config.json", "~no_such_user_here/hub"):
        monkeypatch.setenv("HF_HOME", folder)
        refused(words, f"`{folder}` cannot be created", "export HF_HOME", monkeypatch, capsys)


def test_a_mode_of_stopping_that_is_none_is_two_lines(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SD3TUNE_STOP_POD", "yes")
    words = ["image", "stop-pod", "--after", "0"]
    refused(words, "SD3TUNE_STOP_POD=yes", "never, success, always", monkeypatch, capsys)
