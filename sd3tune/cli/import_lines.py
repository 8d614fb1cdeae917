"""How an import is reported: what was mapped, what has no equivalent, what was chosen instead."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sd3tune.cli import words
from sd3tune.config.problems import CREDENTIALS, shown
from sd3tune.imports.project import Imported

LONGEST = 90
SECRETS = ("password", "secret", "_token", "api_key", "access_key")


def lines(done: Imported, folder: str | None) -> list[words.Line]:
    """folder: where the files were written; None: they were only shown."""
    t = done.translation
    found: list[words.Line] = [f"read as {t.trainer}", ""]
    found += _part("mapped", [_mapped(m.theirs, m.value, m.ours, m.result) for m in t.mapped])
    found += _part("no equivalent", [_unmapped(u.theirs, u.value, u.reason) for u in t.unmapped])
    found += _part("chosen instead of a written value", [
        (f"  {c.ours} = {_value(c.ours, c.result)}", f"({c.reason})") for c in t.chosen
    ])  # fmt: skip
    if t.idle:
        names = ", ".join(dict.fromkeys(map(shown, t.idle)))
        found += _part("asks for nothing here", [f"  {names}"])
    for problem in done.still:
        found += [f"still to do: {problem.message}", f"  hint: {problem.hint}"]
    if folder is not None:
        found += [f"wrote  {folder}/{name}" for name in done.files]
        found.append(f"next   sd3tune plan {folder}/config/config.json")
    return found


def document(done: Imported) -> str:
    """`config import --json`."""
    t = done.translation
    content: dict[str, Any] = {
        "trainer": t.trainer,
        "mapped": [asdict(m) | {"value": _value(m.theirs, m.value)} for m in t.mapped],
        "unmapped": [asdict(u) | {"value": _value(u.theirs, u.value)} for u in t.unmapped],
        "chosen": [asdict(c) for c in t.chosen],
        "idle": t.idle,
        "still_to_do": [asdict(p) for p in done.still],
        "files": dict(done.files),
    }
    return words.document("config import", content)


def _part(title: str, rows: Iterable[words.Line]) -> list[words.Line]:
    listed = list(rows)
    return [title, *listed, ""] if listed else []


def _mapped(theirs: str, value: Any, ours: str, result: Any) -> words.Line:
    return (f"  {shown(theirs)} = {_value(theirs, value)}", f"-> {ours} = {_value(ours, result)}")


def _unmapped(theirs: str, value: Any, reason: str) -> words.Line:
    return (f"  {shown(theirs)} = {_value(theirs, value)}:", reason)


def _value(name: str, value: Any) -> str:
    """As JSON, cut; nothing that a secret goes with."""
    last = name.lower().rpartition(".")[2]
    if last in CREDENTIALS or last.endswith(SECRETS):
        return "…"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return shown(text[: LONGEST + 40])
