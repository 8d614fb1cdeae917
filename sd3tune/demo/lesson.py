"""What the demo's run has taught: the same prompts and noise without and with the LoRA.

Plain diffusers draws, and the judge looks. Prompts for hearts are none of the dataset's captions;
prompts for other shapes show whether the LoRA keeps what the model could do before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sd3tune.demo import concept, verdict_sheet
from sd3tune.demo.judge import Judgement, Score, score
from sd3tune.errors import ConfigError
from sd3tune.report.progress import stage, waiting
from sd3tune.report.quiet import quiet_libraries

STEPS, GUIDANCE, SEED = 16, 2.0, 1000
AT_ONCE = 8  # prompts: more are slower on a CPU
COLUMNS = 8  # of the sheet; divides the number of prompts
HEADINGS = ("without the LoRA", "with the LoRA")


@dataclass(frozen=True)
class Drawn:
    """Pictures of prompts, and what the judge says of them."""

    pictures: tuple[Image.Image, ...]
    score: Score

    def part(self, start: int, end: int | None = None) -> "Drawn":
        """Some of the pictures with their verdicts."""
        return Drawn(self.pictures[start:end], Score(self.score.verdicts[start:end]))


@dataclass(frozen=True)
class Lesson:
    """The concept and other shapes, each drawn without and with the LoRA."""

    hearts: tuple[Drawn, Drawn]
    others: tuple[Drawn, Drawn]
    sheet: Path
    table: Path

    @property
    def lines(self) -> list[str]:
        """The judge's table."""
        titles = ((f"new {concept.CONCEPT}s", self.hearts), ("shapes known before", self.others))
        heads = "".join(f"{text:>20}" for text in HEADINGS)
        return [f"{'':<19}{heads}", *(r for title, pair in titles for r in _rows(title, pair))]


def _rows(title: str, pair: tuple[Drawn, Drawn]) -> list[str]:
    """Counts and shares of each attribute that the prompts ask for."""
    before, after = (_counts(drawn.score) for drawn in pair)
    rows = [f"  {name:<17}{_share(before[name])}{_share(after[name])}" for name in before]
    return [title, *rows]


def _counts(judged: Score) -> dict[str, tuple[int, int]]:
    right = sum(v.is_right for v in judged.verdicts)
    return {"shape and colour": (right, len(judged.verdicts))} | judged.counts


def _share(count: tuple[int, int]) -> str:
    right, asked = count
    return f"{right:>7} of {asked:<3}{100 * right / max(asked, 1):>4.0f} %"


def judge(folder: Path) -> Lesson:
    """Draws the prompts without and with the LoRA in `folder`, judges them, and writes
    before-after.png and verdict.txt to the run's output folder.

    Raises ConfigError where no demo of the painter has been trained.
    """
    model, output = folder / "models" / "painter", folder / "output"
    _check(folder, model, output)
    quiet_libraries()
    hearts = concept.prompts()
    asked = [*hearts, *concept.known_prompts()]
    with waiting("importing PyTorch and diffusers"):
        pipe = pipeline(model)
    with stage("draw without and with the LoRA", 2 * len(asked)) as bar:
        before = drawn(pipe, asked, progress=bar.advance)
        pipe.load_lora_weights(str(output))
        after = drawn(pipe, asked, progress=bar.advance)
    n = len(hearts)
    lesson = Lesson(
        (before.part(0, n), after.part(0, n)),
        (before.part(n), after.part(n)),
        output / "before-after.png",
        output / "verdict.txt",
    )
    pairs = list(_alternating(before, after))
    verdict_sheet.sheet(
        [picture for picture, _ in pairs], [verdict for _, verdict in pairs], COLUMNS, HEADINGS
    ).save(lesson.sheet)
    lesson.table.write_text("\n".join(lesson.lines) + "\n", encoding="utf-8")
    return lesson


def _check(folder: Path, model: Path, output: Path) -> None:
    if not model.is_dir():
        raise ConfigError(
            f"`{folder}` holds no demo of the painter", hint=f"`sd3tune demo {folder}` writes it"
        )
    if not (output / "pytorch_lora_weights.safetensors").is_file():
        raise ConfigError(
            f"`{output}` holds no LoRA",
            hint=f"`sd3tune train {folder}/config/config.json` trains one",
        )


def _alternating(before: Drawn, after: Drawn) -> Iterator[tuple[Image.Image, Judgement]]:
    """A row of pictures before, below it the same prompts after, and so on."""
    for start in range(0, len(before.pictures), COLUMNS):
        for drawn in (before, after):
            row = drawn.part(start, start + COLUMNS)
            yield from zip(row.pictures, row.score.verdicts, strict=True)


def pipeline(model: Path) -> Any:
    """Plain diffusers, in float32 on the CPU."""
    import torch
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(str(model), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(
    pipe: Any,
    prompts: Sequence[str],
    *,
    progress: Callable[[int], object] = lambda count: None,
) -> Drawn:
    """One picture of each prompt, from noise that depends on its number only. progress: called
    with the number of pictures that are newly drawn."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), AT_ONCE):
        some = list(prompts[start : start + AT_ONCE])
        pictures += _drawn_at_once(pipe, some, SEED + start)
        progress(len(some))
    return Drawn(tuple(pictures), score(pictures, prompts))


def _drawn_at_once(pipe: Any, prompts: list[str], seed: int) -> list[Image.Image]:
    import torch

    pictures: list[Image.Image] = pipe(
        prompts,
        height=concept.SIDE,
        width=concept.SIDE,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        max_sequence_length=concept.TOKENS,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(len(prompts))],
    ).images
    return pictures
