"""Which LyCORIS modules ComfyUI renders differently from lycoris-lora, and why: from shapes and
alpha alone. `inspect`, `plan` and the writers ask the same rules. No torch here.

Seen by reading its comfy/weight_adapter of late 2025 and by running it; look again when it changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sd3tune.sd3 import module_names

EXACT = ("lora", "locon", "loha", "lokr", "oft", "glora", "full")  # seen to be rendered exactly
SCALED = ("lora", "locon", "loha", "lokr", "glora")  # what is added is multiplied with alpha / rank
DORA = "it divides DoRA by |W|, not by |W + dW| as the paper does"
CONSTRAINT = "it bounds a rotation by alpha, lycoris-lora by alpha times the rows of the weight"
RESCALED = "it drops the trained scales of OFT (rescaled)"
BOFT_WITHOUT_ALPHA = "it applies no BOFT that has no alpha"
ZERO_ALPHA = "it reads alpha 0 as nothing, lycoris-lora as alpha = rank"
SWAPPED = "it takes the rows of this weight in another order for what is multiplied with the weight"


@dataclass(frozen=True)
class Network:
    """A LyCORIS module. module: its name in diffusers; empty where the file has the original's.
    parts: shapes by the names of lycoris-lora. alpha: None where the file has none; of a rotation,
    its constraint."""

    module: str
    algorithm: str
    parts: Mapping[str, tuple[int, ...]]
    alpha: float | None = None

    @property
    def by_rows(self) -> bool:
        """Whether it has a magnitude of DoRA for each row, as in peft. The other kind has one for
        each column (wd_on_output=false), which ComfyUI renders exactly."""
        return "dora_scale" in self.parts and is_by_rows(self.parts["dora_scale"])

    @property
    def swapped(self) -> bool:
        """Whether the original has the halves of the weight's rows in the other order, or might: of
        a rotation the shape of the weight is unknown."""
        if self.algorithm == "glora":
            outputs, inputs = (self.parts.get(p) or (0,) for p in ("b1.weight", "a2.weight"))
            return module_names.swaps(self.module, outputs[0], inputs[-1])
        return module_names.swaps(self.module, 2, 1)


def is_by_rows(dora_scale: tuple[int, ...]) -> bool:
    """Whether magnitudes of that shape belong to rows."""
    return len(dora_scale) < 2 or dora_scale[1] == 1


def misrendered(network: Network) -> str | None:
    """Why ComfyUI renders something else than lycoris-lora; None: it renders the same."""
    parts, rotation = network.parts, network.algorithm == "oft"
    butterfly = rotation and len(parts["oft_blocks"]) == 4
    if network.by_rows:
        return DORA
    if rotation and network.alpha:
        return CONSTRAINT
    if butterfly and network.alpha is None:
        return BOFT_WITHOUT_ALPHA
    if rotation and not butterfly and "rescale" in parts:
        return RESCALED
    scaled = network.algorithm in SCALED and not {"lokr_w1", "lokr_w2"} <= parts.keys()
    if scaled and network.alpha == 0:
        return ZERO_ALPHA
    if network.algorithm in ("oft", "glora") and network.swapped:
        return SWAPPED
    return None
