"""The questions about how it runs: memory, pictures, the output folder, trackers."""

from collections.abc import Iterator
from pathlib import Path

from sd3tune.configure.costs import disk_cost, picture_cost
from sd3tune.configure.documents import AUTOMATIC, NONE, OF_PICTURES, preset_named
from sd3tune.configure.question import InterviewQuestion, OfferedAnswer, short, shown_path
from sd3tune.configure.questions_of_training import WORD
from sd3tune.configure.situation import Answers, Situation
from sd3tune.data.folder import OUTPUT_MARK
from sd3tune.errors import ConfigError, Sd3tuneError
from sd3tune.tables.presets import MEMORY, RECIPES, Preset
from sd3tune.tables.trackers import TRACKERS

PICTURES_SHOWN = 2  # captions that become prompts
REPORTS_LESS = 1.07  # drivers report up to 6.25 % less than is marketed
GIB = 2**30
MEMORY_SHOWN = 3  # presets by memory


class QualityQuestion(InterviewQuestion):
    name = "quality"
    title = "How much memory may it take?"
    why = "Resolution, batch and the precision of the frozen weights are traded for memory."
    help = "a number, or the name of a preset (`sd3tune configure --presets`)"

    def default(self, known: Situation, answers: Answers) -> str | None:
        offered = self._offered(known, answers)
        fitting = (n for n in offered if known.plans({**answers, self.name: n}))
        return next(fitting, AUTOMATIC)

    def choices(self, known: Situation, answers: Answers) -> Iterator[OfferedAnswer]:
        for name in self._offered(known, answers):
            about = "everything is left to the planner"
            if name != AUTOMATIC:
                about = preset_named(name).about
            yield OfferedAnswer(name, about, self._cost(name, known, answers))

    def read(self, typed: str, known: Situation, answers: Answers) -> str:
        if typed == AUTOMATIC:
            return AUTOMATIC
        return preset_named(typed, ("memory", "recipe")).name

    def _offered(self, known: Situation, answers: Answers) -> Iterator[str]:
        """The preset of this machine's memory, up to two smaller ones that differ for the model,
        and the recipes."""
        facts = known.here.facts
        vendor, model = facts.vendor, known.model(answers["model"]).model.name
        total = (facts.tightest.total_bytes or 0) * REPORTS_LESS / GIB
        sized = [p for p in MEMORY if vendor in p.on and p.gib <= total]
        different: list[Preset] = []
        for preset in reversed(sized):
            alike = [p for p in different if p.settings_for(model) == preset.settings_for(model)]
            different += [] if alike else [preset]
        yield from (p.name for p in different[:MEMORY_SHOWN])
        yield AUTOMATIC
        yield from (p.name for p in RECIPES if vendor in p.on)


class PictureQuestion(InterviewQuestion):
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
        different: list[str] = []
        for text in (folder.caption_of(s).replace(";", ",") for s in folder.samples):
            if text and text not in different:
                different.append(text)
            if len(different) == PICTURES_SHOWN:
                break
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


class OutputQuestion(InterviewQuestion):
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


class TrackerQuestion(InterviewQuestion):
    name = "tracker"
    title = "Which tracker shall show the curves?"
    why = "`sd3tune watch` shows every run; a tracker compares many."
    help = "a number or a name"
    fixed_by = ("report_to",)

    def default(self, known: Situation, answers: Answers) -> str | None:
        return NONE

    def choices(self, known: Situation, answers: Answers) -> Iterator[OfferedAnswer]:
        yield OfferedAnswer(NONE, "`sd3tune watch` and files in the output folder", "no cost")
        for row in TRACKERS.rows:
            there = row.name in known.here.trackers
            missing = f"not installed: pip install 'sd3tune[{row.name}]'"
            yield OfferedAnswer(row.name, row.shows, "no device memory" if there else missing)

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


def holds_run(folder: Path) -> bool:
    """Whether a run has written there."""
    return (folder / OUTPUT_MARK).exists()
