"""examine.py MODEL SHEET [COUNT]: what the painter can do, by the judge, on prompts it never saw.

Prompts are captions that the training has not, a fifth of them with pairs of shape and colour that
never occurred. Plain diffusers draws.
"""

import sys
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from sd3tune.demo import scenes, verdict_sheet
from sd3tune.demo.judge import score
from sd3tune.demo.lesson import drawn, pipeline

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


def main(model: Path, sheet: Path, count: int) -> None:
    torch.manual_seed(0)
    known, unseen = prompts(count)
    pipe = pipeline(model)
    pictures: list[Image.Image] = []
    for name, asked in (("new captions", known), ("unseen pairs", unseen)):
        result = drawn(pipe, asked)
        pictures += result.pictures
        print(f"{name}\n  " + "\n  ".join(result.score.lines), flush=True)
    total = score(pictures, [*known, *unseen])
    print(f"shape and colour: {total.right:.1%} of {len(pictures)}")
    verdict_sheet.sheet(pictures, total.verdicts).save(sheet)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 200)
