"""A text that is read from left to right as a shell reads it: what the next sign is, and how a
line that cannot be read is refused."""

import re
from typing import NoReturn

from sd3tune.config.problems import shown
from sd3tune.errors import ConfigError

LITERAL = "write the value itself, or put it between single quotes"


class ShellScanner:
    """text: of a whole file. at: where reading starts. file: as problems name it."""

    def __init__(self, text: str, at: int, file: str) -> None:
        self._text, self._at, self._file = text, at, file
        self.line = text.count("\n", 0, at) + 1

    def end(self) -> int:
        """Where the next statement starts: behind the line on which reading ended."""
        newline = self._text.find("\n", self._at)
        return len(self._text) if newline < 0 else newline + 1

    def _peek(self, ahead: int = 0) -> str:
        return self._text[self._at + ahead : self._at + ahead + 1]

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _taken(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._at)
        if match:
            self._at = match.end()
        return match

    def _blanks(self) -> None:
        """Blanks, and the ends of lines that a backslash continues."""
        while self._peek() in (" ", "\t") or self._text.startswith("\\\n", self._at):
            self._at += 1 if self._peek() in (" ", "\t") else 2

    def _ended(self) -> bool:
        """Whether the statement is over; a comment ends it too."""
        if self._peek() == "#":
            newline = self._text.find("\n", self._at)
            self._at = len(self._text) if newline < 0 else newline
        return self._peek() in ("", "\n")

    def _where(self, at: int | None = None) -> str:
        line = self._text.count("\n", 0, self._at if at is None else at) + 1
        return f"`{self._file}:{line}`"

    def _line_from(self, begins: int) -> str:
        """The text from there to the end of the line, as problems show it."""
        return shown(self._text[begins : self.end()].strip())

    def _refuse_statement(self, begins: int) -> NoReturn:
        raise ConfigError(
            f"{self._where()} is not an assignment: `{self._line_from(begins)}`",
            hint="write export NAME=value; sd3tune runs no command of this file",
        )

    def _refuse_command(self, sign: str, what: str, begins: int) -> NoReturn:
        raise ConfigError(
            f"{self._where(begins)}: `{sign}` is {what} to a shell, and sd3tune runs no command "
            f"of this file: `{self._line_from(begins)}`",
            hint=LITERAL,
        )

    def _refuse_quote(self, begins: int) -> NoReturn:
        self._at = begins  # what follows is read from the next line on
        raise ConfigError(
            f"{self._where()}: no closing quotation, or a backslash at the end: "
            f"`{self._line_from(begins)}`",
            hint="close the quotes, or remove the backslash at the end",
        )

    def _refuse_form(self, begins: int) -> NoReturn:
        close = self._text.find("}", begins)
        form = self._text[begins : close + 1 if close > 0 else begins + 20]
        raise ConfigError(
            f"{self._where(begins)}: `{shown(form)}` is not supported; of `${{NAME…}}`, sd3tune "
            "knows `:-`, `-`, `:=`, `=`, `:+`, `+`, `:?` and `?`",
            hint=LITERAL,
        )
