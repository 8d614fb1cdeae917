"""A load and the shape it is of as JSON data, and back."""

from dataclasses import asdict, fields
from typing import Any

from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.plan.memory import Load
from sd3tune.sd3.variants import Transformer


def written(shape: Transformer, load: Load) -> dict[str, Any]:
    """Everything that decides the memory of a step."""
    values: dict[str, Any] = {f.name: getattr(load, f.name) for f in fields(load)}
    lycoris = None if load.lycoris is None else load.lycoris.model_dump(mode="json")
    return {"shape": asdict(shape), "load": values | {"lycoris": lycoris}}


def read(data: dict[str, Any]) -> tuple[Transformer, Load]:
    """The inverse of `written`."""
    values = dict(data["load"])
    for name in ("targets", "text_precisions", "keep"):
        values[name] = tuple(values[name])
    if values["lycoris"] is not None:
        values["lycoris"] = Lycoris.model_validate(values["lycoris"])
    return Transformer(**data["shape"]), Load(**values)
