"""docs/quickstart.md, block by block: what can be executed here is, on the demo's tiny model and
photographs. What needs root, an account or a network is compared with the packages it names."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from packaging.specifiers import SpecifierSet

from sd3tune.backends.observe.amdsmi import INSTALL
from sd3tune.config.config import Config
from sd3tune.config.files.locating import locate
from sd3tune.config.run_files import load_run
from tests.loopback import Handler, sends, serving
from tests.plans import LARGE, MEDIUM, plan
from tests.this_machine import prepared_here

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "quickstart.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A code block of the page. how: "run" in bash, in order, in one folder; "merged" into
    config.json for the same run; "planned" for the released model; "read" as a file of its own;
    "compared" with what sd3tune and the installed packages have."""

    name: str
    how: str
    language: str
    text: str


HOW = {
    "Python": "run",
    "Python from Ubuntu": "compared",
    "CUDA toolkit": "compared",
    "checkout": "compared",
    "pip": "compared",
    "amdsmi": "compared",
    "configure": "run",
    "the example file": "run",
    "the values to change": "merged",
    "quantised weights": "merged",
    "config.env": "read",
    "scheduled sampling": "merged",
    "the dataset": "read",
    "its download": "run",
    "a look at the dataset": "run",
    "login at the hub": "compared",
    "login at wandb": "compared",
    "the plan": "run",
    "training": "run",
    "skip-layer guidance": "merged",
    "stable values": "planned",
    "the least memory": "planned",
    "masks and regularisation": "read",
    "scores": "merged",
    "previews": "merged",
}
BLOCKS = {
    name: Block(name, how, *found)
    for (name, how), found in zip(HOW.items(), BLOCK.findall(PAGE), strict=True)
}
TAKEN_OUT = re.findall(r"take out `(\w+)` and `(\w+)`", PAGE)[0]  # by the reader of the page
CHANGED: dict[str, Any] = {  # what a model of 3 layers for pictures of 64 pixels needs
    "pretrained_model_name_or_path": "models/sd3.5-medium",
    "resolution": 64,
    "validation_resolution": "64x64",
    "validation_num_inference_steps": 8,
    "--validation_guidance_skip_layers": [0, 1],
    "max_train_steps": 2,
    "lr_warmup_steps": 0,
    "train_batch_size": 2,
    "num_eval_images": 2,
    "mixed_precision": "bf16",  # a GPU has it without being told
    "pretrained_evaluation_model_name_or_path": "models/clip",
}


def bash(script: str, folder: Path, **environ: str) -> str:
    """What the script prints, in an environment that has sd3tune and its packages."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path} | environ,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def settings(name: str) -> dict[str, Any]:
    """A block with settings, without dashes before their names."""
    return {key.removeprefix("--"): v for key, v in json.loads(BLOCKS[name].text).items()}


def test_each_block_is_the_one_that_the_table_names() -> None:
    begins = {
        "Python": "python3 --version", "Python from Ubuntu": "sudo apt -y install python3.",
        "CUDA toolkit": "sudo apt -y install nvidia-", "checkout": "git clone",
        "pip": "pip install",
        "amdsmi": "sudo apt -y install amd-smi-lib", "configure": "sd3tune configure",
        "the example file": "cp config/config.json.example", "config.env": "export MODEL_TYPE",
        "its download": "mkdir -p datasets", "a look at the dataset": "sd3tune dataset",
        "login at the hub": "hf auth login", "login at wandb": "wandb login",
        "the plan": "sd3tune plan", "training": "bash train.sh",
    }  # fmt: skip
    for name, block in BLOCKS.items():
        assert block.language == ("bash" if name in begins else "json"), name
        assert block.text.startswith(begins.get(name, ("{", "["))), name
    table = PAGE.split("## How this page is tested")[1]
    rows = re.findall(r"^\| ([^|`]+) \| (\w+)", table, re.M)
    assert dict(rows[1:]) == HOW


def test_both_languages_have_the_same_blocks_headings_and_links() -> None:
    hindi = (ROOT / "docs" / "quickstart.hi.md").read_text()
    assert BLOCK.findall(hindi) == BLOCK.findall(PAGE)
    english = PAGE.split("\n| block |")[0]  # that table is on the English page only
    for shape in (r"^#+ ", r"\]\((?:guides|concepts|https)[^)]*\)", r"^(?:\||\*|>) "):
        assert re.findall(shape, hindi, re.M) == re.findall(shape, english, re.M), shape


def test_what_is_installed_is_what_the_package_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(re.findall(r"pip install '(?:sd3tune|\.)\[(\w+)\]", PAGE))
    assert {"cuda", "rocm", "apple", "wandb"} <= extras <= project["optional-dependencies"].keys()
    versions = set(re.findall(r"python(3\.\d+)", BLOCKS["Python from Ubuntu"].text))
    assert versions and all(SpecifierSet(project["requires-python"]).contains(v) for v in versions)
    named = [word for word in shlex.split(BLOCKS["checkout"].text) if "/" in word]
    assert "scripts/setup" in named and (ROOT / "scripts" / "setup").exists()
    assert BLOCKS["CUDA toolkit"].text.split()[-1] == "nvidia-cuda-toolkit"
    # The folder that doctor's fix names, and the variable that the image sets.
    assert f"cp -r {INSTALL.split()[2]} " in BLOCKS["amdsmi"].text
    image = (ROOT / "docker" / "rocm.Dockerfile").read_text()
    assert "export SD3TUNE_AMDSMI=" in BLOCKS["amdsmi"].text and "SD3TUNE_AMDSMI=" in image


def test_the_programs_that_log_in_are_installed_with_these_words() -> None:
    scripts = {
        e.name: e.dist.name for e in metadata.entry_points(group="console_scripts") if e.dist
    }
    programs = {BLOCKS[f"login at {service}"].text.split()[0] for service in ("the hub", "wandb")}
    assert {name: scripts[name] for name in programs} == {"hf": "huggingface_hub", "wandb": "wandb"}
    assert "huggingface-cli" not in scripts  # the page says so


@pytest.mark.parametrize(
    "name, model",
    [("quantised weights", LARGE), ("scheduled sampling", LARGE), ("skip-layer guidance", MEDIUM),
     ("stable values", LARGE), ("stable values", MEDIUM), ("scores", LARGE)],
)  # fmt: skip
def test_the_values_are_accepted_for_the_released_model(name: str, model: str) -> None:
    values = settings("the values to change") | settings(name) | {"max_train_steps": 10}
    for setting in ("pretrained_model_name_or_path", "user_prompt_library"):
        del values[setting]
    made = plan("h100", model, **values)
    for setting, value in settings(name).items():
        assert getattr(made.config, setting) == (tuple(value) if isinstance(value, list) else value)
    assert not [w for w in made.warnings if any(setting in w for setting in settings(name))]


@pytest.mark.parametrize("card", ["rtx3080", "rtx3060"])  # 10 and 12 GB
def test_the_least_memory_fits_the_cards_that_the_page_names(card: str) -> None:
    values = settings("the least memory") | {"validation_prompt": "x"}
    made = plan(card, LARGE, side=512, **values)
    assert f"{made.memory.estimate.training / 2**30:.1f} GiB while training" in PAGE


def test_inputs_alone_leave_half_of_a_card_of_8_gb_free_as_the_page_says() -> None:
    """3.16 GiB of tensors were counted at rank 1 by the step of the model on fake tensors; rank 16
    adds 54 MiB of weights, gradients and state and 23 MiB of casts that all passes share, and the
    workspace is 0.8 GiB."""
    values = settings("the least memory") | {"gradient_checkpointing_keep": "inputs"}
    made = plan("rtx4060", LARGE, side=512, **values | {"validation_prompt": "x"})
    assert f"it is {made.memory.estimate.training / 2**30:.1f} GiB on a card of 8 GB" in PAGE
    assert made.memory.estimate.training / 2**30 == pytest.approx(
        3.16 + 0.05 + 0.02 + 0.8, abs=0.05
    )


def test_config_env_means_the_same_as_the_json_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands alone in `config`, and is found by itself."""
    for folder in ("json", "env"):
        (tmp_path / folder / "config").mkdir(parents=True)
    both = settings("the values to change") | settings("quantised weights")
    del both["user_prompt_library"]  # config.env has no variable for it
    (tmp_path / "json" / "config" / "config.json").write_text(json.dumps(both))
    (tmp_path / "env" / "config" / "config.env").write_text(BLOCKS["config.env"].text)
    read = {}
    for folder in ("json", "env"):
        monkeypatch.chdir(tmp_path / folder)
        read[folder] = Config.load(locate((), {}).path)
    different = {
        name
        for name, value in read["env"].model_dump().items()
        if str(value).replace("/env", "/json") != str(read["json"].model_dump()[name])
    }
    assert different == {"text_encoder_3_precision"}  # the block sets two, as SimpleTuner's
    assert read["env"].text_encoder_3_precision is None


def project_of(demo: Path, folder: Path) -> Path:
    """A folder with what a checkout has, and the tiny models."""
    shutil.copytree(demo / "models" / "sd3.5-medium", folder / "models" / "sd3.5-medium")
    (folder / "config").mkdir()
    for example in (ROOT / "config").glob("*.example"):
        shutil.copy(example, folder / "config")
    shutil.copy(ROOT / "train.sh", folder)
    program = folder / ".venv" / "bin" / "sd3tune"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sd3tune "$@"\n')
    program.chmod(0o755)
    return folder


def test_the_block_of_masks_and_regularisation_plans(demo: Path, tmp_path: Path) -> None:
    folder = project_of(demo, tmp_path)
    photographs = sorted((demo / "photos" / "square").glob("*.png"))
    for name, chosen in {"subject": photographs[:2], "masks": photographs[:2],
                         "class": photographs[2:5]}.items():  # fmt: skip
        (folder / "datasets" / name).mkdir(parents=True)
        for number, photograph in enumerate(chosen):
            shutil.copy(photograph, folder / "datasets" / name / f"{number}.png")
    text = BLOCKS["masks and regularisation"].text.replace("1024", "64")
    (folder / "config" / "multidatabackend.json").write_text(text)
    values = {**settings("the values to change"), **CHANGED, "train_batch_size": 1}
    values.pop("user_prompt_library")
    for name in ("--validation_guidance_skip_layers", "mixed_precision", "num_eval_images"):
        del values[name]
    (folder / "config" / "config.json").write_text(json.dumps(values))
    samples = prepared_here(folder / "config" / "config.json").samples
    assert {(s.dataset, s.mask is not None) for s in samples} == {
        ("subject", True),
        ("class", False),
    }


def dataset_hub(files: dict[str, bytes], sha: str = "a" * 40) -> Any:
    """Answers as a hub that has one dataset."""

    def answer(request: Handler) -> None:
        path = unquote(request.path)
        name = path.rpartition(f"/resolve/{sha}/")[2]
        if path.startswith("/api/datasets/bghira/pseudo-camera-10k/revision/"):
            body: Any = {"id": "bghira/pseudo-camera-10k", "sha": sha}
            sends(json.dumps(body).encode(), Content_Type="application/json")(request)
        elif path.startswith("/api/datasets/bghira/pseudo-camera-10k/tree/"):
            body = [{"type": "file", "path": name, "size": len(data), "oid": name}
                    for name, data in files.items()]  # fmt: skip
            sends(json.dumps(body).encode(), Content_Type="application/json")(request)
        elif name in files:
            sends(b"" if request.command == "HEAD" else files[name], ETag=f'"{name}"',
                  X_Repo_Commit=sha, Content_Length=str(len(files[name])))(request)  # fmt: skip
        else:
            sends(b"", 404)(request)

    return answer


@pytest.fixture(scope="module")
def walked(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The page walked from top to bottom in a fresh folder: what each "run" block printed."""
    from diffusers import AutoencoderTiny

    from tests.cpu import clips

    folder = project_of(demo, tmp_path_factory.mktemp("quickstart"))
    clips.write(folder / "models" / "clip")
    widths, blocks = (8,) * 4, (1,) * 4
    AutoencoderTiny(
        latent_channels=16, encoder_block_out_channels=widths, decoder_block_out_channels=widths,
        num_encoder_blocks=blocks, num_decoder_blocks=blocks,
    ).save_pretrained(folder / "models" / "sd3.5-medium" / "tiny_vae")  # fmt: skip
    photographs = (demo / "photos" / "square").glob("*.png")
    hub = dataset_hub({path.name: path.read_bytes() for path in photographs})
    printed: dict[str, Any] = {"folder": folder}
    config = folder / "config" / "config.json"
    with serving(hub) as served:
        environ = {"HF_ENDPOINT": served.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "",
                   "HF_HOME": str(folder / "home")}  # fmt: skip
        for name, block in BLOCKS.items():
            if block.how == "run" and name not in ("configure", "a look at the dataset", "the plan",
                                                   "training"):  # fmt: skip
                printed[name] = bash(block.text, folder, **environ)
            elif name == "the dataset":
                data = block.text.replace("1024", "64")
                (folder / "config" / "multidatabackend.json").write_text(data)
    merged: dict[str, Any] = json.loads(config.read_text())
    for block in BLOCKS.values():
        if block.how == "merged":
            added = json.loads(block.text)
            merged = {k: v for k, v in merged.items() if f"--{k}" not in added} | added
    for name in TAKEN_OUT:
        merged.pop(name, None)
    config.write_text(json.dumps(merged | CHANGED))
    for name in ("a look at the dataset", "the plan", "training"):
        printed[name] = bash(BLOCKS[name].text, folder)
    yield printed


@pytest.mark.slow
def test_the_page_walked_from_top_to_bottom_trains(walked: dict[str, Any]) -> None:
    output = walked["folder"] / "output"
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert (output / "pytorch_lora_weights.safetensors").is_file()
    assert list((output / "validation_images").glob("step_2_*_64x64.png"))
    events = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    kinds = {event["event"] for event in events}
    assert {"evaluation", "scores", "preview", "picture"} <= kinds


@pytest.mark.slow
def test_the_plan_of_the_walked_page_says_what_each_block_asked_for(walked: dict[str, Any]) -> None:
    for words in ("int8-quanto", "adamw_bf16", "shifted by the size of the image",
                  "validation_preview", "pseudo-camera-10k-sd3: 8 images"):  # fmt: skip
        assert words in walked["the plan"], words
    assert "Python 3." in walked["Python"]
    assert (walked["folder"] / "output" / "contact_sheet.png").is_file()


@pytest.mark.slow
def test_configure_writes_files_that_plan(demo: Path, tmp_path: Path) -> None:
    folder = project_of(demo, tmp_path)
    shutil.copytree(demo / "photos" / "aspect", folder / "datasets" / "mine")
    answers = "--yes --dataset datasets/mine --model models/sd3.5-medium"
    bash(f"{BLOCKS['configure'].text.strip()} {answers}", folder)
    load_run(folder / "config" / "config.json")
