"""What a row of settings without effect is.

A row is a warning for each of its settings that the user set to another value than its default. No
warning follows where a word of the command line switches off what the file sets up: that is what
the word is for.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sd3tune.config.problems import COMMAND_LINE
from sd3tune.config.rules.contradictions import changed
from sd3tune.config.rules.rule import Rule
from sd3tune.config.settings.all_settings import AllSettings

PICTURES_ARE_DRAWN_BY = (
    "validation_disable validation_prompt user_prompt_library validation_prompt_library"
)


@dataclass(frozen=True)
class Idle:
    """names, switches: the settings and those that switch them off, between blanks. why, hint:
    `{c.NAME}` is the value of a setting."""

    names: str
    switches: str
    when: Callable[[AllSettings], object]
    why: str
    hint: str

    def rows(self) -> tuple[Rule[AllSettings], ...]:
        """A rule for each of the settings."""
        return tuple(self._row(name) for name in self.names.split())

    def _row(self, name: str) -> Rule[AllSettings]:
        def idle(c: AllSettings) -> object:
            written = c.source(name).by == "user" and changed(c, name)
            return written and not self._switched_for_this_run(name, c) and self.when(c)

        return Rule((name,), "warning", idle, f"{name} has no effect: {self.why}", self.hint)

    def _switched_for_this_run(self, name: str, c: AllSettings) -> bool:
        """Whether the file sets `name`, and a word of the command line one of its switches."""
        typed = {
            switch for switch in self.switches.split() if c.source(switch).file == COMMAND_LINE
        }
        return bool(typed) and c.source(name).file != COMMAND_LINE


def no_pictures(c: AllSettings) -> tuple[str, str] | None:
    """Why no validation picture is drawn, and what would draw some."""
    if c.validation_disable:
        return "validation_disable is true", "leave out validation_disable"
    if not (c.validation_prompt or c.user_prompt_library or c.validation_prompt_library):
        return "there is no prompt to draw", "set validation_prompt"
    return None
