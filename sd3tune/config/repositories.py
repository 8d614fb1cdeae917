"""Names of repositories on a hub, and the comment in the metadata of a result: values as people
write them, checked. Each function raises ValueError with the end of a sentence, as values.py does.
"""

import re
from typing import Any

# As huggingface_hub.utils.validate_repo_id has it.
PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
MODEL_ID = re.compile(rf"(?:{PART}/)?{PART}")
LONGEST_ID, LONGEST_COMMENT = 96, 10_000  # characters
STEP = "{current_step}"
PLACEHOLDER = re.compile(r"\{[a-z_]+\}")


def model_id(value: Any) -> Any:
    """`name` or `namespace/name`."""
    if not isinstance(value, str):
        return value
    name = value.strip()
    if "://" in name:
        raise ValueError("is an address; write `namespace/name`, and set HF_ENDPOINT for the hub")
    if not is_model_id(name):
        raise ValueError(
            "must be `name` or `namespace/name` of letters, digits, dots, dashes and underscores, "
            f"at most {LONGEST_ID} characters, without `--`, `..` or `.git` at its end"
        )
    return name


def is_model_id(name: str) -> bool:
    """Whether a hub takes it as the name of a model."""
    forbidden = "--" in name or ".." in name or name.endswith(".git")
    return bool(MODEL_ID.fullmatch(name)) and len(name) <= LONGEST_ID and not forbidden


def as_name(text: str) -> str:
    """A name for a repository made of other text: what a hub does not take becomes a dash. Empty
    where nothing is left."""
    dashed = re.sub(r"[^A-Za-z0-9_.]+", "-", text)
    dashed = re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", dashed)).strip("-.")
    return dashed.removesuffix(".git")[:LONGEST_ID].rstrip("-.")


def comment(value: Any) -> Any:
    """A text, or a list of lines."""
    if isinstance(value, list | tuple) and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    if not isinstance(value, str):
        return value
    unknown = [name for name in PLACEHOLDER.findall(value) if name != STEP]
    if unknown:
        raise ValueError(
            f"has the placeholder {unknown[0]}; only {STEP} is known, so that equal runs write "
            "equal files"
        )
    if len(value) > LONGEST_COMMENT:
        raise ValueError(f"must have at most {LONGEST_COMMENT:,} characters")
    return value
