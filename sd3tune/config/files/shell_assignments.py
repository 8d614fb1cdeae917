"""The assignments of a shell file, expanded as bash expands them, without running anything.

`export A=1 B=2`, `A+=x`, quotes, comments, continued lines, `$A`, `${A}`, and `${A:-x}` with `-`,
`=`, `+` and `?`, each with or without the colon. Everything that would start a command is refused:
`$(…)`, backticks, `;`, `&`, `|`, `<`, `>`, parentheses, and every word that is not an assignment.
Reading goes on behind a refused line, so that all of them are reported at once.

One leniency, as SimpleTuner's own reader has it: plain words behind an assignment belong to its
value, `VALIDATION_PROMPT=a red wall`, where a shell would start the program `red`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sd3tune.config.files.placeholders import looks_secret
from sd3tune.config.files.shell_scanner import ShellScanner
from sd3tune.config.problems import Problems, shown
from sd3tune.errors import ConfigError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ASSIGNS = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=")
EXPORT = re.compile(r"export(?=[ \t])")
EXPORTED_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?=\s|\Z)")  # sets no value
OPERATION = re.compile(r":?[-=+?]")
COMMANDS = {  # what starts with it in a shell
    ";": "a second command", "&": "a second command", "|": "a pipe", "<": "reading a file",
    ">": "writing a file", "(": "a subshell or a list", ")": "a subshell or a list",
    "`": "a command",
}  # fmt: skip
NEXT_ASSIGNMENT = re.compile(r"\n[ \t]*(?:export[ \t]+)?[A-Z_][A-Z0-9_]*\+?=")


@dataclass
class Assignments:
    """What a shell file sets. file: as problems name it."""

    file: str
    environ: Mapping[str, str]
    values: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)  # of the last assignment to each
    used: set[str] = field(default_factory=set)  # variables that values refer to
    unset: dict[str, int] = field(default_factory=dict)  # those that nobody has set, and a line

    def assign(self, name: str, value: str, line: int, *, append: bool = False) -> None:
        self.values[name] = self.values.get(name, "") + value if append else value
        self.lines[name] = line

    def look_up(self, name: str) -> str | None:
        """The value of a variable: of an earlier line, else of the environment."""
        self.used.add(name)
        return self.values.get(name, self.environ.get(name))


def read_assignments(
    text: str, file: str, environ: Mapping[str, str], problems: Problems
) -> Assignments:
    """The assignments of a text. problems: gets one for each line that is not one."""
    found = Assignments(file, environ)
    text = re.sub(r"\r+(?=\n|\Z)", "", text)
    at = 0
    while at < len(text):
        statement = _Statement(text, at, found)
        with problems.collecting(f"line {statement.line}"):
            statement.read()
        at = statement.end()
    return found


class _Statement(ShellScanner):
    """One line of a shell file, with the lines that quotes and backslashes join to it."""

    def __init__(self, text: str, at: int, found: Assignments) -> None:
        super().__init__(text, at, found.file)
        self._found = found
        self._live = True  # whether what is read has an effect: not inside an unused ${A:-…}
        self._name = ""  # the variable whose value is read

    def read(self) -> None:
        """Raises ConfigError where the statement is not made of assignments."""
        self._blanks()
        begins = self._at
        if exports := self._taken(EXPORT):
            self._blanks()
        made: list[tuple[str, bool, str]] = []
        while not self._ended():
            if assigned := self._taken(ASSIGNS):
                self._name = assigned[1]
                made.append((assigned[1], bool(assigned[2]), self._word("")))
                if not exports:
                    self._assign(made.pop())
            elif exports and not made and self._taken(EXPORTED_NAME):
                pass
            elif self._name:
                self._continue(made)
            else:
                self._refuse_statement(begins)
            self._blanks()
        for each in made:  # `export A=1 B=$A` gives B the A of before
            self._assign(each)

    def _assign(self, made: tuple[str, bool, str]) -> None:
        name, append, value = made
        self._found.assign(name, value, self.line, append=append)

    def _continue(self, made: list[tuple[str, bool, str]]) -> None:
        """A plain word behind a value: part of it."""
        word = self._word("")
        if made:
            name, append, value = made.pop()
            made.append((name, append, f"{value} {word}".lstrip(" ")))
        else:
            earlier = self._found.values[self._name]
            self._found.values[self._name] = f"{earlier} {word}".lstrip(" ")

    def _word(self, stop: str) -> str:
        """Up to a blank, or up to `stop` where blanks belong to the text, as in `${A:-a b}`."""
        parts: list[str] = []
        while (c := self._peek()) and c != stop and (stop or c not in " \t\n"):
            if c == "'":
                parts.append(self._single())
            elif c == '"':
                parts.append(self._double())
            elif c == "\\":
                parts.append(self._escaped())
            elif c == "$":
                parts.append(self._dollar(quoted=False))
            elif c in COMMANDS and (c == "`" or not stop):
                self._refuse_command(c, COMMANDS[c], self._at)
            else:
                parts.append(self._next())
        return "".join(parts)

    def _single(self) -> str:
        begins = self._at
        close = self._text.find("'", begins + 1)
        if close < 0:
            self._refuse_quote(begins)
        self._at = close + 1
        return self._within(begins, self._text[begins + 1 : close])

    def _double(self) -> str:
        begins = self._at
        self._next()
        parts: list[str] = []
        while (c := self._peek()) != '"':
            if not c:
                self._refuse_quote(begins)
            parts.append(self._inside_quotes(c))
        self._next()
        self._within(begins, self._text[begins + 1 : self._at - 1])
        return "".join(parts)

    def _inside_quotes(self, c: str) -> str:
        if c == "\\" and self._peek(1) in ("$", "`", '"', "\\", "\n"):
            return self._escaped()
        if c == "$":
            return self._dollar(quoted=True)
        if c == "`":
            self._refuse_command(c, COMMANDS[c], self._at)
        return self._next()

    def _within(self, begins: int, text: str) -> str:
        """A text between quotes. One that holds a whole assignment was never closed."""
        if NEXT_ASSIGNMENT.search(text):
            self._refuse_quote(begins)
        return text

    def _escaped(self) -> str:
        if self._at + 1 >= len(self._text):
            self._refuse_quote(self._at)
        escaped = self._text[self._at + 1]
        self._at += 2
        return "" if escaped == "\n" else escaped

    def _dollar(self, *, quoted: bool) -> str:
        begins = self._at
        self._next()
        if name := self._taken(NAME):
            return self._inserted(name[0], self._found.look_up(name[0]))
        c = self._peek()
        if c == "{":
            return self._braces(begins, quoted=quoted)
        if c and (c == "(" or c in "0123456789@*#?!$-" or (c in "'\"" and not quoted)):
            what = "a command" if c == "(" else f"`${c}`"
            self._refuse_command("$" + c, what, begins)
        return "$"

    def _braces(self, begins: int, *, quoted: bool) -> str:
        self._next()
        name = self._taken(NAME)
        operation = self._taken(OPERATION) if name and self._peek() != "}" else None
        if not name or (not operation and self._peek() != "}"):
            self._refuse_form(begins)
        value = self._found.look_up(name[0])
        if operation:
            return self._alternative(name[0], value, operation[0], begins, quoted=quoted)
        self._next()
        return self._inserted(name[0], value)

    def _alternative(
        self, name: str, value: str | None, operation: str, begins: int, *, quoted: bool
    ) -> str:
        """`${NAME:-word}` and its relatives, behind the sign. A colon counts empty as not set."""
        missing = value is None or (operation[0] == ":" and not value)
        takes_word = missing != (operation[-1] == "+")
        live, self._live = self._live, self._live and takes_word
        word = self._quoted_word(begins) if quoted else self._word("}")
        self._live = live
        if self._peek() != "}":
            self._refuse_quote(begins)
        self._next()
        if not takes_word:
            return "" if operation[-1] == "+" else self._inserted(name, value)
        if operation[-1] == "?" and live:
            raise ConfigError(
                f"{self._where()}: {name} is not set: {shown(word) or 'the file requires it'}",
                hint=f"export {name} in the shell that starts sd3tune, or write it in the file",
            )
        if operation[-1] == "=" and live:
            self._found.assign(name, word, self.line)
        return word

    def _quoted_word(self, begins: int) -> str:
        """The word of `"${A:-word}"`: single quotes are plain there, double quotes fall away."""
        parts: list[str] = []
        while (c := self._peek()) != "}":
            if not c:
                self._refuse_quote(begins)
            if c == '"':
                self._next()
            elif c == "\\" and self._peek(1) == "}":
                parts.append(self._escaped())
            else:
                parts.append(self._inside_quotes(c))
        return "".join(parts)

    def _inserted(self, name: str, value: str | None) -> str:
        if not self._live:
            return ""
        if value is None and name != self._name:
            self._found.unset.setdefault(name, self.line)
        if value and name not in self._found.values and looks_secret(name):
            raise ConfigError(
                f"{self._where()}: {self._name} uses ${name}, which looks like a secret: a "
                "configuration file may not read secrets from the environment",
                hint="leave it out: libraries that need a secret read the environment themselves",
            )
        return value or ""
