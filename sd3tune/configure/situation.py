"""Answers in the light of what is at hand: values, defaults of open questions, and the plan."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sd3tune.configure.at_hand import AtHand, ModelAtHand, at_hand
from sd3tune.configure.documents import AUTOMATIC, NONE, AskedRun, preset_named
from sd3tune.configure.draft import Drafts, PlannedDraft
from sd3tune.configure.image_folder import ID, ImageFolder
from sd3tune.data.buckets import Geometry
from sd3tune.data.discover import Sample
from sd3tune.errors import Sd3tuneError
from sd3tune.tables.presets import Preset

Answers = Mapping[str, str]
Default = Callable[["Situation", Answers], str | None]
SUPPOSED_IMAGES, SUPPOSED_SIZE = 20, (1024, 1024)  # before a folder is named
SUPPOSED = ImageFolder(
    Path("images"),
    tuple(
        Sample(ID, f"images/{n}.png", f"{n}.png", SUPPOSED_SIZE, (),
               Geometry(SUPPOSED_SIZE, (0, 0), SUPPOSED_SIZE, 1.0), n + 1)
        for n in range(SUPPOSED_IMAGES)
    ),
    (),
    tuple(f"{n}.png" for n in range(SUPPOSED_IMAGES)),
)  # fmt: skip


@dataclass(frozen=True)
class Situation:
    """words: `key=value` of the command line, which win over every answer. defaults: question ->
    its default, in the order of the questions."""

    here: AtHand
    drafts: Drafts
    defaults: Mapping[str, Default]
    words: tuple[str, ...] = ()
    _models: dict[str, ModelAtHand] = field(default_factory=dict)
    _folders: dict[str, ImageFolder] = field(default_factory=dict)
    _complete: dict[frozenset[tuple[str, str]], dict[str, str]] = field(default_factory=dict)

    def model(self, source: str) -> ModelAtHand:
        """Raises ModelError."""
        known = {m.source: m for m in self.here.models} | self._models
        if source not in known:
            known[source] = self._models[source] = at_hand(source, self.here.find)
        return known[source]

    def folder(self, answer: str | None) -> ImageFolder:
        """The folder of that name, or a supposed one. Raises DataError."""
        if answer is None:
            return SUPPOSED
        if answer not in self._folders:
            self._folders[answer] = self.here.look(self.path(answer))
        return self._folders[answer]

    def path(self, answer: str) -> Path:
        """A path that was typed, absolute; relative ones start at the project."""
        return (self.here.project / Path(answer).expanduser()).absolute()

    def complete(self, answers: Answers) -> dict[str, str]:
        """The answers, with defaults for what is open."""
        key = frozenset(answers.items())
        if key not in self._complete:
            self._complete[key] = self._completed(answers)
        return dict(self._complete[key])

    def _completed(self, answers: Answers) -> dict[str, str]:
        whole = dict(answers)
        for name, default in self.defaults.items():
            if name not in whole and (answer := default(self, whole)) is not None:
                whole[name] = answer
        return whole

    def asked(self, answers: Answers) -> AskedRun:
        """The values of answers that are complete but for the dataset. Raises Sd3tuneError."""
        purpose, _, word = answers["purpose"].partition(":")
        quality = answers["quality"]
        prompts = tuple(p for t in answers["pictures"].split(";") if (p := " ".join(t.split())))
        return AskedRun(
            source=answers["model"],
            model=self.model(answers["model"]).model,
            folder=self.folder(answers.get("dataset")),
            purpose=preset_named(purpose.strip(), ("purpose",)),
            word=word.strip(),
            length=length(answers["length"]),
            quality=None if quality == AUTOMATIC else preset_named(quality, ("memory", "recipe")),
            prompts=() if prompts == (NONE,) else prompts,
            output=self.path(answers["output"]),
            tracker=answers["tracker"],
            words=self.words,
        )

    def draft(self, answers: Answers) -> PlannedDraft:
        """The plan, with defaults for what is open. Raises Sd3tuneError where there is none."""
        return self.drafts.of(self.asked(self.complete(answers)))

    def plans(self, answers: Answers) -> bool:
        """Whether there is a plan. What is open gets its default."""
        try:
            self.draft(answers)
        except Sd3tuneError:
            return False
        return True

    def purpose(self, answers: Answers) -> Preset:
        """Of answers that have one."""
        return preset_named(answers["purpose"].partition(":")[0].strip(), ("purpose",))


def length(answer: str) -> dict[str, int]:
    """`1200` is optimizer steps, `3 epochs` are passes over the data."""
    number, _, unit = answer.partition(" ")
    name = "num_train_epochs" if unit.startswith("epoch") else "max_train_steps"
    return {name: int(number)}
