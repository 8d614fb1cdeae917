"""What a validation picture says about itself, read back as other programs read it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sd3tune.formats.picture_files import keep
from sd3tune.processes.world import ALONE_ON_CPU
from sd3tune.sample.pictures import PictureJob, texts
from sd3tune.sample.pipeline import Picture
from tests.plans import plan

NONE = (torch.zeros(1, 1), torch.zeros(1))
# A1111's own expression for `Name: value` in the last line (modules/infotext_utils.py).
FIELD = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
PROMPTS = ["a grey cat", 'a cat, grey: "old"', "eine Katze, süß", "灰色の猫", "two\nlines"]


def written(path: Path, prompt: str, **settings: Any) -> dict[str, str]:
    made = plan("h100-sxm", output_name="cats", seed=7, **settings)
    picture = Picture("one", prompt, NONE, (832, 1216), index=2, seed=9)
    job = PictureJob(made, (), lambda prompt: NONE, ALONE_ON_CPU)
    keep(Image.new("RGB", (8, 8)), path, texts(job, picture, 500, "ema"))
    with Image.open(path) as image:
        return {str(k): str(v) for k, v in image.info.items()}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompt_seed_and_settings_are_read_back(prompt: str, tmp_path: Path) -> None:
    info = written(
        tmp_path / "a.png", prompt, validation_negative_prompt="blurry, ugly",
        validation_num_inference_steps=28, validation_guidance=5.5,
        validation_guidance_skip_layers=[7, 8, 9],
    )  # fmt: skip
    *lines, last = info["parameters"].split("\n")
    assert "\n".join(lines) == f"{prompt}\nNegative prompt: blurry, ugly"
    fields = dict(FIELD.findall(last))
    expected = {"Steps": "28", "Sampler": "Euler", "CFG scale": "5.5", "Seed": "9",
                "Size": "832x1216", "Model": "sd3.5-medium", "Adapter": "cats",
                "Training step": "500"}  # fmt: skip
    assert fields.items() >= expected.items()
    assert json.loads(fields["Skip layers"]) == "7, 8, 9"
    ours = json.loads(info["sd3tune"])
    assert (ours["prompt"], ours["negative_prompt"], ours["seed"]) == (prompt, "blurry, ugly", 9)
    assert ours["skip_guidance_layers"] == [7, 8, 9] and ours["weights"] == "ema"


def test_without_a_negative_prompt_there_is_no_line_of_one(tmp_path: Path) -> None:
    info = written(tmp_path / "a.png", "a cat", validation_negative_prompt="")
    assert info["parameters"].startswith("a cat\nSteps: ")
