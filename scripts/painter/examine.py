"""examine.py MODEL SHEET [COUNT]: what the painter can do, by the judge, on prompts it never saw.

Prompts are captions that the training has not, a fifth of them with pairs of shape and colour that
never occurred. Plain diffusers draws.
"""

import sys
from itertools import islice
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image

from sd3tune.demo import scenes, verdict_sheet
from sd3tune.demo.judge import score

SIDE, TOKENS, STEPS, GUIDANCE = 64, 24, 28, 2.0
TRAINED, EXAMINED = (11, 30000), 99  # seed and count of dataset.py; seed of these prompts


def prompts(count: int) -> tuple[list[str], list[str]]:
    """New captions of known pairs, and captions of unseen pairs."""
    trained = {made.caption for made in scenes.scenes(*TRAINED)}
    new = dict.fromkeys(m.caption for m in scenes.scenes(EXAMINED, 20 * count))
    known = list(islice((c for c in new if c not in trained), count * 4 // 5))
    words = scenes.SceneWords(without=())
    unseen = dict.fromkeys(
        made.caption
        for made in scenes.scenes(EXAMINED + 1, 400 * count, words)
        if any((t.shape, t.colour) in scenes.UNSEEN_PAIRS for t in made.things)
    )
    return known, list(islice(unseen, count // 5))


def drawn(pipe, asked: list[str]) -> list[Image.Image]:
    """One picture of each prompt, from noise that depends on its number only."""
    noise = [torch.Generator().manual_seed(1000 + number) for number in range(len(asked))]
    return pipe(
        asked, height=SIDE, width=SIDE, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
        max_sequence_length=TOKENS, generator=noise,
    ).images  # fmt: skip


def main(model: Path, sheet: Path, count: int) -> None:
    known, unseen = prompts(count)
    pipe = StableDiffusion3Pipeline.from_pretrained(model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pictures: list[Image.Image] = []
    for name, asked in (("new captions", known), ("unseen pairs", unseen)):
        shown = drawn(pipe, asked)
        pictures += shown
        print(f"{name}\n  " + "\n  ".join(score(shown, asked).lines), flush=True)
    total = score(pictures, [*known, *unseen])
    print(f"shape and colour: {total.right:.1%} of {len(pictures)}")
    verdict_sheet.sheet(pictures, total.verdicts).save(sheet)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 200)
