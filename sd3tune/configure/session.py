"""`sd3tune configure` from its options to the written files."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sd3tune import devices
from sd3tune.backends.decide.admission import ProbeRunner, recorded
from sd3tune.backends.observe import probing
from sd3tune.backends.observe.awaited import Awaited
from sd3tune.backends.observe.facts import Facts
from sd3tune.config.files.reading import project_folder
from sd3tune.configure.at_hand import seen_here
from sd3tune.configure.documents import Paths, documents, preset_named
from sd3tune.configure.draft import Drafts, PlannedDraft, contents
from sd3tune.configure.interview import Interview, Talk, answers_given
from sd3tune.configure.questions import DEFAULTS
from sd3tune.configure.situation import Answers, Situation
from sd3tune.errors import ConfigError
from sd3tune.filesystem import drafts as files
from sd3tune.prepare import PROBING
from sd3tune.report.progress import waiting

QUESTION_OF = {"memory": "quality", "recipe": "quality", "purpose": "purpose"}  # kind of a preset


@dataclass(frozen=True)
class Options:
    """What the command line says. chip: of another machine; None: this one."""

    config: Path
    dataset: str | None = None
    model: str | None = None
    preset_names: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    chip: str | None = None


@dataclass(frozen=True)
class Session:
    """known: with plans that take what is not probed for granted. judge: the plan of answers with
    everything that was probed; raises Sd3tuneError. given: answers of the command line."""

    options: Options
    known: Situation
    judge: Callable[[Answers], PlannedDraft]
    given: Answers

    def asked(self, talk: Talk) -> dict[str, str]:
        """The answers on which an interview ends. Raises Left."""
        return Interview(self.known, self.given, talk, self.options.config).run()

    def defaults(self) -> dict[str, str]:
        """The answers without a question. Raises ConfigError where the images are not known."""
        answers = self.known.complete(self.given)
        if "dataset" not in answers:
            raise ConfigError(
                f"no folder with images was found in `{self.known.here.project}`",
                hint="name it with --dataset DIR",
            )
        return answers

    def refuse_existing(self, answers: Answers) -> None:
        """Raises ConfigError for files that would be replaced."""
        if there := [path for path in self._contents(answers) if path.exists()]:
            others = "".join(f", `{path}`" for path in there[1:])
            raise ConfigError(
                f"`{there[0]}`{others}: there already, and nothing is replaced without a question",
                hint="--force replaces what is there; or name another file: "
                "`sd3tune configure other/config/config.json --yes`",
            )

    def write(self, answers: Answers) -> list[Path]:
        """Writes the files of answers; each is complete or absent. The answer is the files."""
        written = self._contents(answers)
        for path, text in written.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _put(path, text)
        return list(written)

    def _contents(self, answers: Answers) -> dict[Path, str]:
        config = self.options.config
        paths = Paths(project_folder(config), config)
        return contents(documents(self.known.asked(answers), paths), config)


def begin(options: Options, scratch: Path) -> Session:
    """Looks at the machine, the project and the command line. scratch: an empty folder. Raises
    Sd3tuneError."""
    facts, run_probes = _machine(options.chip)
    known = Situation(
        seen_here(facts, options.config),
        Drafts(scratch / "open", facts, recorded(facts.smoke)),
        DEFAULTS,
        options.words,
    )
    probed = replace(known, drafts=Drafts(scratch / "probed", facts, run_probes))
    typed = {
        name: text and from_project(text, project_folder(options.config))
        for name, text in (("model", options.model), ("dataset", options.dataset))
    }
    typed |= presets_given(options.preset_names)
    return Session(options, known, probed.draft, answers_given(typed, known))


def from_project(text: str, project: Path) -> str:
    """A path that was typed where the command runs, as the project's files write it; other text,
    such as the name of a model on a hub, as it is."""
    typed = Path(text).expanduser()
    if not typed.exists():
        return text
    whole, base = typed.absolute(), project.absolute()
    return str(whole.relative_to(base) if whole.is_relative_to(base) else whole)


def presets_given(names: tuple[str, ...]) -> dict[str, str | None]:
    """Question -> the preset that answers it. Raises ConfigError for two of one question."""
    given: dict[str, str | None] = {}
    for name in names:
        row = preset_named(name)
        question = QUESTION_OF[row.kind]
        if question in given:
            raise ConfigError(
                f"--from {given[question]} and --from {row.name} both answer `{question}`",
                hint="leave one of them out; a preset by memory and one by purpose go together",
            )
        given[question] = row.name
    return given


def _machine(chip: str | None) -> tuple[Facts, ProbeRunner]:
    if chip is not None:
        facts = devices.facts_of(chip)
        return facts, recorded(facts.smoke)
    awaited = Awaited()
    shown = partial(waiting, awaited.words(PROBING))
    with waiting(awaited.words("looking at the devices")):
        facts = devices.observe(awaited=awaited)
    return facts, probing.on_this_machine(while_running=shown, awaited=awaited)


def _put(path: Path, text: str) -> None:
    """Raises OSError."""
    draft = path.with_name(path.name + files.SUFFIX)
    with files.drafted(draft, wait=True) as descriptor:
        assert descriptor is not None  # it was waited for
        files.fill(descriptor, text.encode("utf-8"))
        files.finish(draft, path, descriptor)
