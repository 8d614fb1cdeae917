"""The eight questions: what may be answered, the default, the reason, and what is shown beside each
choice.

An answer is a text, as the user could type it. Every answer is planned before it is taken, with the
defaults of the questions that are still open, so that an interview cannot end in a run that does
not fit.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd3tune.config.files.settings_file import LENGTHS
from sd3tune.configure.at_hand import ModelAtHand, download, login
from sd3tune.configure.costs import cost, disk_cost, picture_cost
from sd3tune.configure.documents import AUTOMATIC, NONE, OF_PICTURES, preset_named
from sd3tune.configure.situation import Answers, Situation
from sd3tune.data.folder import OUTPUT_MARK
from sd3tune.errors import ConfigError, Sd3tuneError
from sd3tune.tables.architectures import ARCHITECTURES, DEFAULT
from sd3tune.tables.presets import MEMORY, PURPOSES, RECIPES, Preset
from sd3tune.tables.trackers import TRACKERS

WORD = "sks"  # a trigger word that the models have no picture of
MOST_STEPS = 1_000_000
LENGTH = re.compile(r"(\d{1,9})\s*(steps?|epochs?)?")
PICTURES_SHOWN = 2  # captions that become prompts
REPORTS_LESS = 1.07  # drivers report up to 6.25 % less than is marketed
GIB = 2**30


@dataclass(frozen=True)
class Choice:
    """One answer that is offered. cost: what it takes here, or why it is not possible."""

    answer: str
    about: str
    cost: str


class Question(ABC):
    """One question. fixed_by: settings that answer it when the command line sets them. numbered:
    whether a number means a choice. completes: `path` where the answer is a folder. tells_all: a
    choice shows all that is known of it."""

    name: str
    title: str
    why: str
    help: str
    fixed_by: Sequence[str] = ()
    numbered = True
    completes = ""
    tells_all = False

    @abstractmethod
    def default(self, known: Situation, answers: Answers) -> str | None:
        """The answer that Enter gives; None: there is none. answers: of the questions before."""

    def choices(self, known: Situation, answers: Answers) -> Iterator[Choice]:
        """What is offered, the default first."""
        yield from ()

    def notes(self, known: Situation, answers: Answers) -> Iterator[str]:
        """What is known about the default, for a question without choices."""
        yield from ()

    def read(self, typed: str, known: Situation, answers: Answers) -> str:
        """The answer that was typed. Raises Sd3tuneError."""
        return typed

    def after(self, answer: str, known: Situation) -> Iterator[str]:
        """What the user should know once it is answered."""
        yield from ()

    def answer_of(self, settings: Mapping[str, Any]) -> str | None:
        """The answer that settings of the command line give; None: they are silent."""
        return None

    def _cost(self, answer: str, known: Situation, answers: Answers) -> str:
        try:
            return cost(known.draft({**answers, self.name: answer}))
        except Sd3tuneError as e:
            return f"not possible here: {short(e)}"


class ModelQuestion(Question):
    name = "model"
    title = "Which model?"
    why = "A larger model draws better, and needs more memory, time and images."
    help = "a number, a folder, a safetensors file, or a repository of the hub"
    fixed_by = (
        "pretrained_model_name_or_path",
        "pretrained_transformer_model_name_or_path",
        "model_flavour",
    )
    completes = "path"

    def default(self, known: Situation, answers: Answers) -> str | None:
        ranked = self._ranked(known)
        fitting = (m.source for m in ranked if known.plans({**answers, self.name: m.source}))
        return next(fitting, ranked[0].source if ranked else None)

    def choices(self, known: Situation, answers: Answers) -> Iterator[Choice]:
        for m in self._ranked(known):
            here = f"{self._cost(m.source, known, answers)}; {download(m)}"
            yield Choice(shown_path(m.source, known), m.model.name, here)

    def read(self, typed: str, known: Situation, answers: Answers) -> str:
        if typed in ARCHITECTURES:
            typed = ARCHITECTURES[typed].repository
        elif (path := known.path(typed)).exists():
            typed = str(path)
        known.model(typed)
        return typed

    def after(self, answer: str, known: Situation) -> Iterator[str]:
        if not known.model(answer).download_bytes:
            return
        yield login()
        if (refusal := known.here.access(answer)) is not None:
            yield f"it cannot be downloaded now: {refusal}"

    def answer_of(self, settings: Mapping[str, Any]) -> str | None:
        found = (settings.get(name) for name in (self.fixed_by[0], "model_flavour"))
        return next((str(value) for value in found if value), None)

    def _ranked(self, known: Situation) -> list[ModelAtHand]:
        """Models of this disk first. The demo's come first where there is no accelerator, and last
        where there is one."""

        def rank(m: ModelAtHand) -> tuple[bool, bool, bool]:
            tiny = "(tiny)" in m.model.name
            last = tiny and known.here.facts.accelerated
            usual = m.model.name.startswith(DEFAULT.name)
            return last, not Path(m.source).exists(), not usual

        return sorted(known.here.models, key=rank)


class DatasetQuestion(Question):
    name = "dataset"
    title = "Which folder holds the images?"
    why = "Images with captions beside them (`cat.png`, `cat.txt`) teach best."
    help = "a number or a folder; Tab completes it"
    tells_all = True
    completes = "path"

    def default(self, known: Situation, answers: Answers) -> str | None:
        folders = known.here.folders
        return shown_path(str(folders[0]), known) if folders else None

    def choices(self, known: Situation, answers: Answers) -> Iterator[Choice]:
        for folder in known.here.folders[:4]:
            answer = shown_path(str(folder), known)
            try:
                about = "; ".join(known.folder(answer).lines())
            except Sd3tuneError as e:
                yield Choice(answer, "", f"not possible: {short(e)}")
                continue
            yield Choice(answer, about, "")

    def read(self, typed: str, known: Situation, answers: Answers) -> str:
        answer = shown_path(str(known.path(typed)), known)
        known.folder(answer)
        return answer

    def after(self, answer: str, known: Situation) -> Iterator[str]:
        yield from known.folder(answer).lines()


class PurposeQuestion(Question):
    name = "purpose"
    title = "What do the images teach, and by which word?"
    why = (
        "The trigger word is what a prompt will call it by. It is put before each caption, and is "
        "the caption of images without one."
    )
    help = "a number or a name, with a trigger word after a colon: `subject: sks cat`"
    fixed_by = ("model_type",)

    def default(self, known: Situation, answers: Answers) -> str | None:
        names = (self.read(row.name, known, answers) for row in PURPOSES)
        return next((n for n in names if known.plans({**answers, self.name: n})), PURPOSES[0].name)

    def choices(self, known: Situation, answers: Answers) -> Iterator[Choice]:
        for row in PURPOSES:
            answer = self.read(row.name, known, answers)
            yield Choice(answer, row.about, self._cost(answer, known, answers))

    def read(self, typed: str, known: Situation, answers: Answers) -> str:
        name, _, word = (part.strip() for part in typed.partition(":"))
        name = chosen(name, [row.name for row in PURPOSES])
        row = preset_named(name, ("purpose",))
        folder = known.folder(answers.get("dataset"))
        if not word and folder.caption_strategy == "instanceprompt":
            word = WORD
        return f"{row.name}: {word}" if word else row.name

    def answer_of(self, settings: Mapping[str, Any]) -> str | None:
        return "full" if settings.get("model_type") == "full" else None


class LengthQuestion(Question):
    name = "length"
    title = "How many steps?"
    why = "Too few steps learn too little; too many copy the images. Pictures show which."
    help = "a number of optimizer steps, or passes over the images: `10 epochs`"
    fixed_by = LENGTHS
    numbered = False

    def default(self, known: Situation, answers: Answers) -> str | None:
        images = len(known.folder(answers.get("dataset")).samples)
        return str(known.purpose(answers).steps(images))

    def choices(self, known: Situation, answers: Answers) -> Iterator[Choice]:
        usual = int(self.default(known, answers) or 0)
        about = ("the default for this purpose and so many images", "a first look", "more")
        for steps, words in zip((usual, usual // 2, 2 * usual), about, strict=True):
            yield Choice(str(steps), words, self._cost(str(steps), known, answers))

    def read(self, typed: str, known: Situation, answers: Answers) -> str:
        match = LENGTH.fullmatch(typed.lower())
        if match is None or not 0 < int(match[1]) <= MOST_STEPS:
            raise ConfigError(
                f"`{typed}` is not a length", hint="type a number of steps, or `10 epochs`"
            )
        epochs = (match[2] or "").startswith("epoch")
        return f"{int(match[1])} epochs" if epochs else str(int(match[1]))


class QualityQuestion(Question):
    name = "quality"
    title = "How much memory may it take?"
    why = "Resolution, batch and the precision of the frozen weights are traded for memory."
    help = "a number, or the name of a preset (`sd3tune configure --presets`)"

    def default(self, known: Situation, answers: Answers) -> str | None:
        offered = [*self._offered(known)]
        fitting = (n for n in offered if known.plans({**answers, self.name: n}))
        return next(fitting, AUTOMATIC)

    def choices(self, known: Situation, answers: Answers) -> Iterator[Choice]:
        for name in self._offered(known):
            about = "everything is left to the planner"
            if name != AUTOMATIC:
                about = preset_named(name).about
            yield Choice(name, about, self._cost(name, known, answers))

    def read(self, typed: str, known: Situation, answers: Answers) -> str:
        if typed == AUTOMATIC:
            return AUTOMATIC
        return preset_named(typed, ("memory", "recipe")).name

    def _offered(self, known: Situation) -> Iterator[str]:
        """The preset of this machine's memory, the two below it, and the recipes."""
        facts = known.here.facts
        total = (facts.tightest.total_bytes or 0) * REPORTS_LESS / GIB
        vendor = facts.vendor
        sized: list[Preset] = [p for p in MEMORY if vendor in p.on and p.gib <= total]
        yield from (p.name for p in sized[:-4:-1])
        yield AUTOMATIC
        yield from (p.name for p in RECIPES if vendor in p.on)


class PictureQuestion(Question):
    name = "pictures"
    title = "Which pictures shall it draw on the way?"
    why = "Pictures show when to stop; the loss does not."
    help = "prompts with `;` between them, or `none`"
    fixed_by = OF_PICTURES
    numbered = False

    def default(self, known: Situation, answers: Answers) -> str | None:
        folder = known.folder(answers.get("dataset"))
        purpose, _, word = answers["purpose"].partition(":")
        caption = preset_named(purpose.strip()).caption.format(word=word.strip() or WORD)
        if folder.caption_strategy == "instanceprompt":
            return f"{caption}; {caption} in the snow"
        texts = (folder.caption_of(s) for s in folder.samples)
        different = [*dict.fromkeys(t.replace(";", ",") for t in texts if t)][:PICTURES_SHOWN]
        named = [f"{word.strip()} {text}".strip() for text in different]
        return "; ".join(named) or caption

    def notes(self, known: Situation, answers: Answers) -> Iterator[str]:
        try:
            yield picture_cost(known.draft(answers))
        except Sd3tuneError as e:
            yield f"not possible here: {short(e)}"

    def read(self, typed: str, known: Situation, answers: Answers) -> str:
        if not typed.replace(";", "").strip():
            raise ConfigError("there is no prompt", hint="type a prompt, or `none`")
        return NONE if typed.lower() in (NONE, "no") else typed


class OutputQuestion(Question):
    name = "output"
    title = "Where shall the result go?"
    why = "The adapter, checkpoints, pictures and caches lie there."
    help = "a folder that holds no run yet"
    fixed_by = ("output_dir",)
    numbered = False
    completes = "path"

    def default(self, known: Situation, answers: Answers) -> str | None:
        names = ("output", *(f"output-{n}" for n in range(2, 1000)))
        return next(name for name in names if not holds_run(known.path(name)))

    def notes(self, known: Situation, answers: Answers) -> Iterator[str]:
        try:
            yield disk_cost(known.draft(answers))
        except Sd3tuneError as e:
            yield f"not possible here: {short(e)}"

    def read(self, typed: str, known: Situation, answers: Answers) -> str:
        path = known.path(typed)
        if holds_run(path):
            raise ConfigError(f"`{path}` holds a run already", hint="name another folder")
        if path.exists() and not path.is_dir():
            raise ConfigError(f"`{path}` is a file", hint="name a folder")
        return shown_path(str(path), known)


class TrackerQuestion(Question):
    name = "tracker"
    title = "Which tracker shall show the curves?"
    why = "`sd3tune watch` shows every run; a tracker compares many."
    help = "a number or a name"
    fixed_by = ("report_to",)

    def default(self, known: Situation, answers: Answers) -> str | None:
        return NONE

    def choices(self, known: Situation, answers: Answers) -> Iterator[Choice]:
        yield Choice(NONE, "`sd3tune watch` and files in the output folder", "no cost")
        for row in TRACKERS.rows:
            there = row.name in known.here.trackers
            missing = f"not installed: pip install 'sd3tune[{row.name}]'"
            yield Choice(row.name, row.shows, "no memory of the device" if there else missing)

    def read(self, typed: str, known: Situation, answers: Answers) -> str:
        if typed in (NONE, "no"):
            return NONE
        try:
            name = str(TRACKERS[TRACKERS.check(typed)].name)
        except ValueError as e:
            raise ConfigError(
                f"the tracker `{typed}` {e}", hint="`none` needs nothing installed"
            ) from None
        if name not in known.here.trackers:
            raise ConfigError(
                f"{name} is not installed",
                hint=f"pip install 'sd3tune[{name}]', and start again; or choose none",
            )
        return name


QUESTIONS: tuple[Question, ...] = (
    ModelQuestion(), DatasetQuestion(), PurposeQuestion(), LengthQuestion(), QualityQuestion(),
    PictureQuestion(), OutputQuestion(), TrackerQuestion(),
)  # fmt: skip
DEFAULTS = {question.name: question.default for question in QUESTIONS}


def chosen(typed: str, choices: Sequence[str]) -> str:
    """The choice of a number that was typed, or the text itself. Raises ConfigError."""
    if not typed.isdigit():
        return typed
    if not 0 < int(typed) <= len(choices):
        raise ConfigError(
            f"there is no choice {typed}", hint=f"type a number from 1 to {len(choices)}, or a name"
        )
    return choices[int(typed) - 1]


def holds_run(folder: Path) -> bool:
    """Whether a run has written there."""
    return (folder / OUTPUT_MARK).exists()


def shown_path(text: str, known: Situation) -> str:
    """A path as it may be typed; a repository as it is."""
    path = Path(text)
    if path.is_absolute() and path.is_relative_to(known.here.project):
        return str(path.relative_to(known.here.project))
    return text


def short(error: Sd3tuneError) -> str:
    """The first reason of an error: the planner's name every option that it refused."""
    words = str(error)
    return words if len(words) <= 150 else f"{words[:150].rpartition(' ')[0]} …"
