"""Warns before training of a LyCORIS network that ComfyUI renders differently from lycoris-lora."""

from collections import Counter
from collections.abc import Iterator

from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.plan import lycoris_size
from sd3tune.sd3 import comfyui_rules
from sd3tune.sd3.comfyui_rules import Network
from sd3tune.sd3.linears import Linear
from sd3tune.sd3.variants import Model

CAUSES = {  # reason -> the settings behind it, and what the export needs
    comfyui_rules.DORA: ("dora_wd=true with wd_on_output=true", " --model MODEL"),
    comfyui_rules.CONSTRAINT: ("constraint", ""),
    comfyui_rules.RESCALED: ("rescaled=true with algo=diag-oft", " --model MODEL"),
    comfyui_rules.SWAPPED: ("algo=diag-oft, boft or glora", " --model MODEL"),
}


def of_rendering(model: Model, config: Lycoris) -> Iterator[str]:
    """A sentence for each cause."""
    adapted = lycoris_size.matched(model.transformer, config)
    seen = (comfyui_rules.misrendered(_network(linear, own)) for linear, own in adapted.values())
    for reason, count in Counter(r for r in seen if r is not None).items():
        setting, needed = CAUSES[reason]
        command = f"sd3tune export --to comfyui{needed}"
        yield (
            f"ComfyUI renders {count} of {len(adapted)} layers of this network wrongly "
            f"({setting}): {reason}; `{command}` writes what it renders right"
        )


def _network(linear: Linear, own: Lycoris) -> Network:
    """The tensors that a layer will have, as far as ComfyUI's rules ask."""
    algorithm = "oft" if own.algo in ("diag-oft", "boft") else own.algo
    parts: dict[str, tuple[int, ...]] = {}
    if own.dora_wd:
        parts["dora_scale"] = (linear.outputs, 1) if own.wd_on_output else (1, linear.inputs)
    if algorithm == "oft":
        parts["oft_blocks"] = (1,) * (4 if own.algo == "boft" else 3)
        parts |= {"rescale": (linear.outputs, 1)} if own.rescaled else {}
        return Network(linear.name, algorithm, parts, own.constraint)
    if algorithm == "glora":
        parts |= {"b1.weight": (linear.outputs, 1), "a2.weight": (1, linear.inputs)}
    return Network(linear.name, algorithm, parts)
