"""The load of a stage and the shape it is of as JSON data, and back."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.plan.memory import Load
from sd3tune.plan.stage_loads import CaptionLoad, LatentLoad, PictureLoad, StageLoad
from sd3tune.sd3.variants import Transformer

KINDS: Mapping[str, type[Any]] = {
    kind.__name__: kind for kind in (CaptionLoad, LatentLoad, Load, PictureLoad)
}
SEQUENCES = ("targets", "text_precisions", "keep", "precisions", "encoders")
WITHOUT_TRANSFORMER = (CaptionLoad, LatentLoad)


def written(shape: Transformer, load: StageLoad) -> dict[str, Any]:
    """Everything that decides the memory of a stage."""
    own = None if isinstance(load, WITHOUT_TRANSFORMER) else asdict(shape)
    return {"shape": own, "kind": type(load).__name__, "load": _values(load)}


def read(data: Mapping[str, Any]) -> tuple[Transformer | None, StageLoad]:
    """The inverse of `written`; encoders and VAE need no shape."""
    shape = data["shape"]
    return None if shape is None else Transformer(**shape), _load(data["kind"], data["load"])


def _values(load: StageLoad) -> dict[str, Any]:
    values: dict[str, Any] = {f.name: getattr(load, f.name) for f in fields(load)}
    if isinstance(load, PictureLoad):
        values["training"] = _values(load.training)
    if isinstance(load, Load) and load.lycoris is not None:
        values["lycoris"] = load.lycoris.model_dump(mode="json")
    return values


def _load(kind: str, data: Mapping[str, Any]) -> StageLoad:
    values = dict(data) | {name: tuple(data[name]) for name in SEQUENCES if name in data}
    if "training" in values:
        values["training"] = _load(Load.__name__, values["training"])
    if values.get("lycoris") is not None:
        values["lycoris"] = Lycoris.model_validate(values["lycoris"])
    made: StageLoad = KINDS[kind](**values)
    return made
