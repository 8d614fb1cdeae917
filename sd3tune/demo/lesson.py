"""What the demo's run has taught: the same prompts and noise without and with the LoRA.

Plain diffusers draws, and the judge looks. The prompts are none of the dataset's captions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sd3tune.demo import concept, verdict_sheet
from sd3tune.demo.judge import Score, score
from sd3tune.errors import ConfigError
from sd3tune.report.progress import stage
from sd3tune.report.quiet import quiet_libraries

STEPS, GUIDANCE, SEED = 16, 3.0, 1000
COLUMNS = 8  # of the sheet


@dataclass(frozen=True)
class Drawn:
    """Pictures of prompts, and what the judge says of them."""

    pictures: tuple[Image.Image, ...]
    score: Score


@dataclass(frozen=True)
class Lesson:
    """The concept before and after training."""

    before: Drawn
    after: Drawn
    sheet: Path
    table: Path

    @property
    def lines(self) -> list[str]:
        before, after = self.before.score, self.after.score
        return [
            f"without the LoRA, {_share(before)} pictures show what their prompts ask for",
            f"with the LoRA, {_share(after)} pictures do",
        ]


def _share(result: Score) -> str:
    right = sum(v.is_right for v in result.verdicts)
    return f"{right} of {len(result.verdicts)}"


def judge(folder: Path) -> Lesson:
    """Draws the concept's prompts without and with the LoRA in `folder`, judges them, and writes
    before-after.png and verdict.txt to the run's output folder.

    Raises ConfigError where no demo of the painter has been trained.
    """
    model, output = folder / "models" / "painter", folder / "output"
    if not model.is_dir():
        raise ConfigError(
            f"`{folder}` holds no demo of the painter", hint="`sd3tune demo DIR` does"
        )
    if not (output / "pytorch_lora_weights.safetensors").is_file():
        raise ConfigError(
            f"`{output}` holds no LoRA",
            hint=f"`sd3tune train {folder}/config/config.json` trains one",
        )
    quiet_libraries()
    asked = concept.prompts()
    with stage("draw without and with the LoRA", 2) as bar:
        pipe = pipeline(model)
        before = drawn(pipe, asked)
        bar.advance()
        pipe.load_lora_weights(str(output))
        after = drawn(pipe, asked)
        bar.advance()
    lesson = Lesson(before, after, output / "before-after.png", output / "verdict.txt")
    pairs = list(_rows(before, after))
    verdict_sheet.sheet(
        [picture for picture, _ in pairs], [verdict for _, verdict in pairs], COLUMNS
    ).save(lesson.sheet)
    text = [*lesson.lines, "", "before", *before.score.lines, "", "after", *after.score.lines]
    lesson.table.write_text("\n".join(text) + "\n", encoding="utf-8")
    return lesson


def _rows(before: Drawn, after: Drawn) -> Iterator[tuple[Image.Image, Any]]:
    """A row of pictures before, below it the same prompts after, and so on."""
    for start in range(0, len(before.pictures), COLUMNS):
        for drawn in (before, after):
            end = start + COLUMNS
            yield from zip(drawn.pictures[start:end], drawn.score.verdicts[start:end], strict=True)


def pipeline(model: Path) -> Any:
    """Plain diffusers, in float32 on the CPU."""
    import torch
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(str(model), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, prompts: Sequence[str], *, blank: bool = False) -> Drawn:
    """One picture of each prompt, from noise that depends on its number only. blank: the prompts
    are what the judge asks; the model is given no words."""
    import torch

    pictures = pipe(
        [""] * len(prompts) if blank else list(prompts),
        height=concept.SIDE,
        width=concept.SIDE,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        max_sequence_length=concept.TOKENS,
        generator=[torch.Generator().manual_seed(SEED + i) for i in range(len(prompts))],
    ).images
    return Drawn(tuple(pictures), score(pictures, prompts))
