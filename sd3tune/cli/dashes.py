"""Settings written as options, `--lora_rank=8` or `--lora_rank 8`, as the words `lora_rank=8`."""

from collections.abc import Callable, Collection, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

FILE = ("config", "config_file", "config_path")  # other programs' options for the file
LOCATION = ("env", "config_backend")  # which file is read, where none is named
# Options of other programs that take all words up to the next option.
SEVERAL = ("network_args", "optimizer_args", "lr_scheduler_args", "lora_layers", "target_modules")
MISSPELT = 0.7  # similarity from which a word is taken for a misspelt option of the command


class SettingsAsOptions(click.Command):
    """A command that takes KEY=VALUE words, also where they begin with dashes. Options of the
    command itself come first; click refuses what is neither."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses what click is given, with the settings as words."""
        options = {name for param in self.get_params(ctx) for name in param.opts}
        return super().parse_args(ctx, list(as_words(args, options)))


def settings_command(name: str, short_help: str) -> Callable[[Callable[..., Any]], click.Command]:
    """The decorator of a command that takes a configuration and KEY=VALUE words."""
    return click.command(name, cls=SettingsAsOptions, short_help=short_help)


def as_words(args: Sequence[str], options: Collection[str]) -> Iterator[str]:
    """The arguments of a command. options: those that it has itself, as "--on"."""
    rest = list(args)
    while rest:
        word = rest.pop(0)
        option, equals, _ = word.partition("=")
        if word == "--":
            yield from (word, *rest)
            return
        if not word.startswith("--") or option in options or not _is_setting(word, options):
            yield word
            continue
        name = option.removeprefix("--").replace("-", "_")
        if name in FILE and (equals or rest):
            yield word.removeprefix(f"{option}=") if equals else rest.pop(0)
        elif name in SEVERAL and not equals:
            until = next((i for i, w in enumerate(rest) if w.startswith("--")), len(rest))
            yield f"{name}={' '.join(rest[:until])}"
            del rest[:until]
        elif name in LOCATION and not equals and rest:
            yield f"{name}={rest.pop(0)}"
        elif equals:
            yield name + word.removeprefix(option)
        elif rest and _is_value(name, rest[0]):
            yield f"{name}={rest.pop(0)}"
        else:
            yield f"{name}=true"


def _is_setting(word: str, options: Collection[str]) -> bool:
    """A known name, or any name with a value or an underscore, which no option has: the
    configuration then says what is wrong with it."""
    from sd3tune.config.config import is_known

    option, equals, _ = word.partition("=")
    name = option.removeprefix("--").replace("-", "_")
    if "_" in option or name in LOCATION or is_known(name):
        return True
    return bool(equals) and not get_close_matches(option, options, n=1, cutoff=MISSPELT)


def _is_value(name: str, word: str) -> bool:
    """Whether the word after `--name` is its value, and not the next argument. A switch may stand
    alone, so that only true and false are taken for its value."""
    from sd3tune.config import values
    from sd3tune.config.settings.all_settings import AllSettings

    field = AllSettings.model_fields.get(name)
    if field is not None and field.annotation is bool:
        return word.lower() in (*values.TRUE, *values.FALSE)
    alone = field is None and ("=" in word or Path(word).exists())
    return not word.startswith("--") and not alone
