"""Text of other people inside a Markdown page: prompts, names of datasets and models, notes.

Whatever it holds, it stays text: no HTML, no link, no heading, no row of a table, no end of a code
block.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sd3tune.escaping import one_line

# What has a meaning anywhere in a line, what has one at its beginning, and what GitHub's dialect
# makes a link of without any markup. CommonMark lets all of it be escaped by a backslash.
MARKUP = re.compile(r"([\\`*{}\[\]()#!|~$@^]|(?<![^\W_])_|_(?![^\W_]))")
AT_FIRST = re.compile(r"^([-+=:])|^(\d{1,9})(?=[.)](?:\s|$))")
BARE_LINK = re.compile(r"(?<=www)(\.)|(:)(?=//)|(?<=mailto)(:)|(?<=xmpp)(:)", re.IGNORECASE)
ENTITIES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))


def text(words: object) -> str:
    """One line of text for a paragraph or a cell of a table."""
    line = MARKUP.sub(r"\\\1", " ".join(one_line(" ".join(str(words).split())).split()))
    line = BARE_LINK.sub(lambda match: "\\" + match[0], line)
    line = AT_FIRST.sub(lambda m: f"\\{m[1]}" if m[1] else f"{m[2]}\\", line)
    for character, entity in ENTITIES:
        line = line.replace(character, entity)
    return line


def paragraphs(words: str) -> str:
    """Text of several lines: an empty line begins a paragraph, others are joined."""
    parts = re.split(r"\n\s*\n", words.replace("\r\n", "\n").replace("\r", "\n"))
    return "\n\n".join(filter(None, map(text, parts)))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table whose cells are text."""
    lines = [head, ["-"] * len(head), *([text(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def code(language: str, content: str) -> str:
    """A code block whose fence is longer than every one inside."""
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def json_block(facts: Mapping[str, Any]) -> str:
    """A code block of JSON that no reader takes for HTML."""
    content = json.dumps(facts, indent=1)
    return code("json", content.replace("<", "\\u003c").replace("`", "\\u0060"))


def python_literal(words: str) -> str:
    """A text as Python reads it, on one line; what cannot be seen is an escape."""
    return repr(words)
