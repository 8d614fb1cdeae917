"""Use a trained adapter with plain diffusers: `python examples/load_lora.py MODEL FOLDER [PROMPT]`.

Draws one picture without and one with the adapter in FOLDER, from the same noise, and writes both
side by side to FOLDER/without-and-with.png. Nothing of sd3tune is needed.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image


def main(model: str, folder: str, prompt: str = "a tabby cat with green eyes") -> None:
    print(f"loading {model}", flush=True)
    pipe = StableDiffusion3Pipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    side = 128 if Path(model).is_dir() else 1024

    def draw() -> Image.Image:
        noise = torch.Generator().manual_seed(0)
        return pipe(
            prompt,
            height=side,
            width=side,
            num_inference_steps=8,
            guidance_scale=3.0,
            generator=noise,
        ).images[0]

    print("drawing one picture without the adapter, and one with it", flush=True)
    without = draw()
    pipe.load_lora_weights(folder)
    with_adapter = draw()
    both = Image.new("RGB", (2 * side, side))
    both.paste(without, (0, 0))
    both.paste(with_adapter, (side, 0))
    path = Path(folder) / "without-and-with.png"
    both.save(path)
    change = np.abs(np.asarray(without, float) - np.asarray(with_adapter, float)).mean()
    print(f"the adapter changes the picture by {change:.1f} of 255 on average: {path}")
    if change == 0:
        sys.exit("error: the adapter changed nothing")


if __name__ == "__main__":
    main(*sys.argv[1:])
