"""The reference of all settings, from the table itself: `python -m sd3tune.config.document`."""

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sd3tune.config.datasets import IDLE, ImageDataset, TextEmbeds
from sd3tune.config.settings import Config
from sd3tune.config.vocabulary import ALIASES, REASONS

ABOUT = (
    "Made from the settings' own docstrings by `python -m sd3tune.config.document`. Keys may be "
    "written with or without `--`. A setting without a default is chosen by `sd3tune plan`, which "
    "says why."
)
ABOUT_IDLE = "In datasets; they tune scans and writes that sd3tune does not do that way"


def document() -> str:
    """docs/reference/settings.md; a test compares the two."""
    lines = ["# Settings", "", ABOUT, ""]
    lines += table("config/config.json", Config)
    lines += table("config/multidatabackend.json: images", ImageDataset)
    lines += table("config/multidatabackend.json: cached captions", TextEmbeds)
    idle = ", ".join(f"`{name}`" for name in IDLE)
    lines += ["## Taken without effect", "", f"{ABOUT_IDLE}: {idle}.", ""]
    lines += ["## Other names", "", *(f"* `{old}` is `{new}`" for old, new in ALIASES.items()), ""]
    lines += ["## Known and refused", "", "Unless they are switched off.", ""]
    for reason in dict.fromkeys(REASONS.values()):
        names = ", ".join(f"`{name}`" for name, why in REASONS.items() if why == reason)
        lines += [f"* {reason}: {names}", ""]
    return "\n".join(lines).rstrip() + "\n"


def table(title: str, kind: type[BaseModel]) -> list[str]:
    rows = [f"| `{name}` | {default(field)} | {meaning(field)} |"
            for name, field in kind.model_fields.items()]  # fmt: skip
    return [f"## {title}", "", "| setting | default | meaning |", "|-|-|-|", *rows, ""]


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.default
    if value in (None, "", ()):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    print(document(), end="")
