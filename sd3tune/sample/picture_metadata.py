"""How a validation picture was drawn, as text inside its PNG: in the form of A1111's web interface,
which picture viewers and ComfyUI's successors read, and as JSON.
"""

import json
from collections.abc import Mapping
from typing import Any

from PIL.PngImagePlugin import PngInfo

from sd3tune import __version__
from sd3tune.plan.plan import Plan
from sd3tune.sample.pipeline import Picture

A1111, OURS = "parameters", "sd3tune"  # keys of the text chunks


def texts(picture: Picture, plan: Plan, step: int, weights: str) -> dict[str, str]:
    """By key of a text chunk. step: of training. weights: the folder of these weights below the
    folder of pictures; empty for the last ones."""
    facts = _facts(picture, plan, step, weights)
    return {A1111: _as_a1111(facts), OURS: json.dumps(facts)}


def _facts(picture: Picture, plan: Plan, step: int, weights: str) -> dict[str, Any]:
    how, skip = plan.pictures, plan.pictures.skip
    return {
        "prompt": picture.prompt,
        "negative_prompt": how.negative_prompt,
        "seed": how.seed + picture.index,
        "steps": how.sampling_steps,
        "guidance_scale": how.guidance,
        "width": picture.size[0],
        "height": picture.size[1],
        "sampler": "Euler",
        "shift": how.shift,
        "skip_guidance_layers": None if skip is None else list(skip.blocks),
        "skip_layer_guidance_scale": None if skip is None else skip.scale,
        "skip_layer_guidance_start": None if skip is None else skip.start,
        "skip_layer_guidance_stop": None if skip is None else skip.stop,
        "model": plan.model.name,
        "adapter": plan.result.title,
        "training_step": step,
        "weights": weights or "last",
        "version": __version__,
    }


def _as_a1111(f: Mapping[str, Any]) -> str:
    """Prompt, negative prompt, and one line of settings; a value with a comma is quoted."""
    shown = {
        "Steps": f["steps"],
        "Sampler": f["sampler"],
        "CFG scale": f"{f['guidance_scale']:g}",
        "Seed": f["seed"],
        "Size": f"{f['width']}x{f['height']}",
        "Model": f["model"],
        "Shift": None if f["shift"] is None else f"{f['shift']:g}",
        "Skip layers": f["skip_guidance_layers"] and ", ".join(map(str, f["skip_guidance_layers"])),
        "Adapter": f["adapter"],
        "Training step": f["training_step"],
        "Version": f"sd3tune {f['version']}",
    }
    pairs = (f"{key}: {_quoted(str(v))}" for key, v in shown.items() if v is not None)
    negative = f["negative_prompt"]
    lines = [f["prompt"], *([f"Negative prompt: {negative}"] if negative else [])]
    return "\n".join([*lines, ", ".join(pairs)])


def _quoted(value: str) -> str:
    return json.dumps(value) if set(value) & set(",:\n") else value


def chunks(held: Mapping[str, str]) -> PngInfo:
    """The texts as Pillow writes them: tEXt, or iTXt where Latin-1 does not have a character."""
    info = PngInfo()
    for key, text in held.items():
        info.add_text(key, text.replace("\0", ""))
    return info
