"""The questions about what is trained: model, images, purpose, length."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sd3tune.config.files.settings_file import LENGTHS
from sd3tune.configure.at_hand import ModelAtHand, download, login
from sd3tune.configure.documents import preset_named
from sd3tune.configure.question import InterviewQuestion, OfferedAnswer, chosen, short, shown_path
from sd3tune.configure.situation import Answers, Situation
from sd3tune.errors import ConfigError, Sd3tuneError
from sd3tune.tables.architectures import ARCHITECTURES, DEFAULT
from sd3tune.tables.presets import PURPOSES

WORD = "sks"  # a trigger word that the models have no picture of
MOST_STEPS = 1_000_000
LENGTH = re.compile(r"(\d{1,9})\s*(steps?|epochs?)?")


class ModelQuestion(InterviewQuestion):
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

    def choices(self, known: Situation, answers: Answers) -> Iterator[OfferedAnswer]:
        for m in self._ranked(known):
            here = f"{self._cost(m.source, known, answers)}; {download(m)}"
            yield OfferedAnswer(shown_path(m.source, known), m.model.name, here)

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


class DatasetQuestion(InterviewQuestion):
    name = "dataset"
    title = "Which folder holds the images?"
    why = "Images with captions beside them (`cat.png`, `cat.txt`) teach best."
    help = "a number or a folder; Tab completes it"
    tells_all = True
    completes = "path"

    def default(self, known: Situation, answers: Answers) -> str | None:
        folders = known.here.folders
        return shown_path(str(folders[0]), known) if folders else None

    def choices(self, known: Situation, answers: Answers) -> Iterator[OfferedAnswer]:
        for folder in known.here.folders[:4]:
            answer = shown_path(str(folder), known)
            try:
                about = "; ".join(known.folder(answer).lines())
            except Sd3tuneError as e:
                yield OfferedAnswer(answer, "", f"not possible: {short(e)}")
                continue
            yield OfferedAnswer(answer, about, "")

    def read(self, typed: str, known: Situation, answers: Answers) -> str:
        answer = shown_path(str(known.path(typed)), known)
        known.folder(answer)
        return answer

    def after(self, answer: str, known: Situation) -> Iterator[str]:
        yield from known.folder(answer).lines()


class PurposeQuestion(InterviewQuestion):
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

    def choices(self, known: Situation, answers: Answers) -> Iterator[OfferedAnswer]:
        for row in PURPOSES:
            answer = self.read(row.name, known, answers)
            yield OfferedAnswer(answer, row.about, self._cost(answer, known, answers))

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


class LengthQuestion(InterviewQuestion):
    name = "length"
    title = "How many steps?"
    why = "Too few steps learn too little; too many copy the images. Pictures show which."
    help = "a number of optimizer steps, or passes over the images: `10 epochs`"
    fixed_by = LENGTHS
    numbered = False

    def default(self, known: Situation, answers: Answers) -> str | None:
        images = len(known.folder(answers.get("dataset")).samples)
        return str(known.purpose(answers).steps(images))

    def choices(self, known: Situation, answers: Answers) -> Iterator[OfferedAnswer]:
        usual = int(self.default(known, answers) or 0)
        about = ("the default for this purpose and so many images", "a first look", "more")
        for steps, words in zip((usual, usual // 2, 2 * usual), about, strict=True):
            yield OfferedAnswer(str(steps), words, self._cost(str(steps), known, answers))

    def read(self, typed: str, known: Situation, answers: Answers) -> str:
        match = LENGTH.fullmatch(typed.lower())
        if match is None or not 0 < int(match[1]) <= MOST_STEPS:
            raise ConfigError(
                f"`{typed}` is not a length", hint="type a number of steps, or `10 epochs`"
            )
        epochs = (match[2] or "").startswith("epoch")
        return f"{int(match[1])} epochs" if epochs else str(int(match[1]))
