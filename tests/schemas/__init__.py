"""Schemas of other people's formats, recorded: each says in "$comment" where it comes from, which
version it is and what was left out. They are data: nothing here is fetched when tests run.
event.json is sd3tune's own.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.validators import extend, validator_for

HERE = Path(__file__).parent
SCHEMAS = sorted(HERE.glob("*.json"))


@lru_cache
def schema(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text())


def _any_case(_: Any, words: list[str], value: str, __: Any) -> Any:
    """SkyPilot's own keyword (sky/utils/validator.py)."""
    if value.lower() not in [w.lower() for w in words]:
        yield jsonschema.ValidationError(f"{value!r} is not one of {words!r}")


def checker(name: str, part: str | None = None) -> Any:
    """A validator for the schema, or for one of its definitions."""
    document = schema(name)
    if part is not None:
        document = {**document, "$ref": f"#/$defs/{part}"}
    kind = validator_for(document)
    kind.check_schema(document)
    return extend(kind, {"case_insensitive_enum": _any_case})(document)
