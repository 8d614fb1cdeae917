"""Which configuration file a command reads when the user names none, in SimpleTuner's places and
order: CONFIG_PATH, then the environment's folder `config/NAME`, then `config`; there config.json,
config.toml, config.env.

The words `env=NAME`, `config_path=FILE` and `config_backend=json|toml|env|cmd` say the same as the
variables, and hold before them. So do lines of `config/config.env`, which SimpleTuner reads first:
with `export ENV=style` in it, the settings are those of `config/style`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sd3tune.config.files.reading import read_text
from sd3tune.config.files.shell_assignments import read_assignments
from sd3tune.config.problems import Problems, shown
from sd3tune.errors import ConfigError

FOLDER = Path("config")
FILES = {"json": "config.json", "toml": "config.toml", "env": "config.env"}
BACKENDS = (*FILES, "cmd")
WITHOUT_FILE = ("env", "cmd")  # backends that need none: variables, or the command line alone
ENVIRONMENT_NAMES = ("SIMPLETUNER_ENVIRONMENT", "SIMPLETUNER_ENV", "ENV")
BACKEND_NAMES = ("SIMPLETUNER_CONFIG_BACKEND", "CONFIG_BACKEND", "CONFIG_TYPE")
PATH_NAMES = ("CONFIG_PATH",)
LOCATION_NAMES = (*ENVIRONMENT_NAMES, *BACKEND_NAMES, *PATH_NAMES)
FIRST = FOLDER / FILES["env"]
LAUNCHER = "launcher_env="  # the word that names the file which chose the configuration
WRITE_ONE = (
    "`sd3tune config example && cp config/config.json.example config/config.json` writes one; "
    "`sd3tune demo DIR` writes a whole run"
)


@dataclass(frozen=True)
class Located:
    """path: of the file, which need not exist where a word of `words` is `config_backend=env` or
    `config_backend=cmd`. words: the KEY=VALUE words for the configuration. sentence: which file was
    chosen and why; empty where the user named it."""

    path: Path
    words: tuple[str, ...]
    sentence: str = ""


@dataclass(frozen=True)
class _Choice:
    """A choice of the user, and where it was made, as `ENV=style`."""

    value: str
    where: str


@dataclass(frozen=True)
class _Places:
    """Where choices are made: words of the command line, lines of FIRST, variables."""

    words: Mapping[str, str]
    first: Mapping[str, str]
    environ: Mapping[str, str]

    def choice(self, word: str, variables: Sequence[str]) -> "_Choice | None":
        """The strongest of them that makes this choice."""
        if self.words.get(word):
            return _Choice(self.words[word], f"{word}={self.words[word]}")
        for held, where in ((self.first, f" in {FIRST}"), (self.environ, "")):
            for variable in variables:
                if held.get(variable):
                    return _Choice(held[variable], f"{variable}={held[variable]}{where}")
        return None


def locate(words: Sequence[str], environ: Mapping[str, str]) -> Located:
    """The file for a command line that names none. words: its KEY=VALUE words; relative paths start
    at the working directory. Raises ConfigError where there is no such file."""
    places = _Places(dict(w.partition("=")[::2] for w in words), _first_file(environ), environ)
    backend = places.choice("config_backend", BACKEND_NAMES)
    name = places.choice("env", ENVIRONMENT_NAMES)
    named = places.choice("config_path", PATH_NAMES)
    own = ("config_backend", "env", "config_path")
    rest = tuple(w for w in words if w.partition("=")[0] not in own)
    if places.first:
        rest = (*rest, f"{LAUNCHER}{FIRST}")
    if backend is not None and backend.value not in BACKENDS:
        raise ConfigError(
            f"{backend.where}: there is no such backend", hint=f"use one of {', '.join(BACKENDS)}"
        )
    if named is not None:
        return Located(Path(named.value), rest, f"configuration: {named.value} ({named.where})")
    folder, reasons = _folder(name)
    if backend is not None:
        reasons = (*reasons, backend.where)
    if backend is not None and backend.value == "cmd":
        return _without_file(folder, rest, "cmd", "the command line alone", reasons)
    return _inside(folder, rest, backend, reasons)


def _first_file(environ: Mapping[str, str]) -> dict[str, str]:
    """What `config/config.env` says about where the configuration is."""
    if not FIRST.is_file():
        return {}
    text = read_text(FIRST, "configuration file")
    assigned = read_assignments(text, str(FIRST), environ, Problems())
    return {name: value for name, value in assigned.values.items() if name in LOCATION_NAMES}


def _folder(name: _Choice | None) -> tuple[Path, tuple[str, ...]]:
    """The folder of an environment, and the reasons to show."""
    if name is None or name.value == "default":
        return FOLDER, ()
    folder = FOLDER / name.value
    if folder.is_dir():
        return folder, (name.where,)
    if name.where.startswith("ENV=") and "/" in name.value:  # the start file of a shell
        return FOLDER, ()
    raise ConfigError(
        f"{shown(name.where)}: there is no folder `{shown(str(folder))}`",
        hint="an environment is a folder below config with a configuration file; unset the "
        "variable, or name the file itself",
    )


def _inside(
    folder: Path, words: tuple[str, ...], backend: _Choice | None, reasons: tuple[str, ...]
) -> Located:
    kinds = FILES.values() if backend is None else [FILES[backend.value]]
    there = [folder / name for name in kinds if (folder / name).is_file()]
    if there and there[0] == FIRST:
        words = tuple(w for w in words if not w.startswith(LAUNCHER))
    if there:
        others = [f"{path} is there too and is not read" for path in there[1:]]
        return Located(there[0], words, _sentence(str(there[0]), (*reasons, *others)))
    if backend is not None and backend.value == "env":
        return _without_file(folder, words, "env", "the environment and the command line", reasons)
    looked = ", ".join(str(folder / name) for name in kinds)
    raise ConfigError(f"no configuration file is here: looked for {looked}", hint=WRITE_ONE)


def _without_file(
    folder: Path, words: tuple[str, ...], backend: str, what: str, reasons: tuple[str, ...]
) -> Located:
    path = folder / FILES["env"]
    return Located(path, (*words, f"config_backend={backend}"), _sentence(what, reasons))


def _sentence(what: str, reasons: tuple[str, ...]) -> str:
    behind = f" ({'; '.join(reasons)})" if reasons else ""
    return f"configuration: {what}{behind}"
