"""Interviews of `sd3tune configure` without a terminal: recorded facts, small folders of images."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from sd3tune.backends.decide import chips
from sd3tune.configure.at_hand import AtHand, at_hand, find_model
from sd3tune.configure.draft import Drafts, PlannedDraft
from sd3tune.configure.interview import Interview, Talk
from sd3tune.configure.questions import DEFAULTS
from sd3tune.configure.situation import Situation
from sd3tune.sd3.models import find
from sd3tune.tables.architectures import ARCHITECTURES

CAPTIONED, BARE, ONE = "photos/captioned", "photos/bare", "photos/one"
TRANSFORMER = {
    "_class_name": "SD3Transformer2DModel", "num_layers": 2, "num_attention_heads": 2,
    "attention_head_dim": 32, "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
    "pos_embed_max_size": 32, "in_channels": 16, "patch_size": 2,
}  # fmt: skip


def project(root: Path) -> Path:
    """Three folders of images: with caption files and masks, without captions, and with one
    image. And a folder with the shape of a small model, without its weights."""
    for folder, count in ((CAPTIONED, 12), (BARE, 5), (ONE, 1)):
        (root / folder).mkdir(parents=True)
        for n in range(count):
            Image.new("RGB", (640 + 64 * (n % 3), 512)).save(root / folder / f"{n}.png")
    (root / f"{CAPTIONED}-masks").mkdir()
    for n in range(12):
        (root / CAPTIONED / f"{n}.txt").write_text(f"a red wall number {n}; seen from below")
        Image.new("L", (64, 64)).save(root / f"{CAPTIONED}-masks" / f"{n}.png")
    (root / "models/small/transformer").mkdir(parents=True)
    (root / "models/small/transformer/config.json").write_text(json.dumps(TRANSFORMER))
    return root


def situation(root: Path, chip: str, scratch: Path, words: Sequence[str] = ()) -> Situation:
    """On a chip of the catalogue, in a project."""
    facts = chips.facts(chips.chip(chip))
    small = at_hand(str(root / "models/small"), lambda source: find(source))
    released = (at_hand(row.repository, find_model) for row in ARCHITECTURES.rows)
    folders = tuple(root / name for name in (CAPTIONED, BARE, ONE))
    here = AtHand(
        facts, root / "config/config.json", (small, *released), folders, trackers=("tensorboard",),
        find=lambda source: find(source),
    )  # fmt: skip
    return Situation(here, Drafts(scratch / chip, facts), DEFAULTS, tuple(words))


class Typist:
    """Types lines, and Enter when there are no more. told: everything that was printed."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.told: list[str] = []

    def ask(self, prompt: str, completes: str) -> str:
        self.told.append(prompt)
        return next(self._lines, "")

    def tell(self, lines: Sequence[str | tuple[str, str]]) -> None:
        self.told += [line if isinstance(line, str) else " ".join(line) for line in lines]

    @property
    def text(self) -> str:
        return "\n".join(self.told)


def interviewed(
    known: Situation, typist: Typist, given: dict[str, str] | None = None
) -> tuple[dict[str, str], PlannedDraft]:
    """The answers, and the run that was agreed to."""
    agreed: list[PlannedDraft] = []

    def summary(draft: PlannedDraft) -> list[str]:
        agreed.append(draft)
        return ["the plan"]

    talk = Talk(typist.ask, typist.tell, summary, known.draft)
    answers = Interview(known, given or {}, talk, known.here.config).run()
    return answers, agreed[-1]
