"""Which parts of a model are not on this disk: what a run would download. Looks at names of files
in the hub's cache; asks no server."""

from pathlib import Path

from sd3tune.sd3.variants import COMPONENTS, Model

PARTS = ("transformer", *COMPONENTS, "vae")


def missing_parts(model: Model) -> tuple[str, ...]:
    """Names of the parts, in the order of PARTS, without those that the model lacks."""
    places = {"transformer": model.source.transformer, "vae": model.source.vae}
    sizes = part_sizes(model)
    return tuple(
        part
        for part in PARTS
        if sizes[part] and not _is_here(places.get(part, model.source.base), part)
    )


def part_sizes(model: Model) -> dict[str, int]:
    """Part -> number of parameters; 0: the model lacks it."""
    encoders = dict(zip(COMPONENTS, model.text_encoders, strict=True))
    return {"transformer": model.transformer.parameters, **encoders, "vae": model.vae}


def _is_here(place: str, part: str) -> bool:
    """place: a folder, a file, or the id of a repository."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if Path(place).exists():
        return True
    snapshots = Path(HF_HUB_CACHE) / f"models--{place.replace('/', '--')}" / "snapshots"
    return any(snapshots.glob(f"*/{part}/*.safetensors"))
