"""The metadata of an adapter file, in its Safetensors header.

`modelspec.*` is Stability's model metadata 1.0.1, as SwarmUI and others read it; the architecture
names are theirs. No date: the same adapter gives the same bytes. No torch here.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sd3tune import __version__
from sd3tune.tables.architectures import ARCHITECTURES
from sd3tune.tables.dialects import DIALECTS

if TYPE_CHECKING:
    from sd3tune.formats.adapter_weights import LoraWeights, ModuleWeights

FILE = "pytorch_lora_weights.safetensors"  # the name diffusers looks for in a folder
SPEC = "1.0.1"
STEP = "sd3tune_step"  # of the run that wrote the file as its result
WIDENED = "sd3tune_widened"  # number types that could not hold what was exported
# Not carried over when a file is converted: written afresh, or about the bytes of the old file.
OWN = ("format", "lora_adapter_metadata", "sd3tune_version", "sd3tune_dialect", WIDENED,
       "lora_rank", "lora_alpha", "alpha", "network_alpha", "ss_network_dim", "ss_network_alpha",
       "adapter_config", "peft_config", "lora_config", "modelspec.implementation",
       "modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")  # fmt: skip


def modelspec(
    model: str, *, title: str, resolution: int, kind: str = "lora", **more: str
) -> dict[str, str]:
    """For AdapterFile.metadata. model: as sd3/variants.Model.name; kind: lora, lycoris, or
    empty for a whole model; more: other fields of the specification, as trigger_phrase."""
    family = model.removesuffix(" (tiny)")
    return {
        "modelspec.sai_model_spec": SPEC,
        "modelspec.architecture": "/".join(filter(None, (ARCHITECTURES[family].modelspec, kind))),
        "modelspec.title": title,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "base_model": model,
        **{f"modelspec.{name}": text for name, text in more.items()},
    }


def described(modules: "Mapping[str, ModuleWeights]", dialect: str) -> dict[str, str]:
    """What follows from the tensors, as metadata: rank and alpha where all modules agree, and who
    wrote the file."""
    found = {
        "sd3tune_version": __version__,
        "sd3tune_dialect": dialect,
        "modelspec.implementation": DIALECTS[dialect].implementation,
    }
    ranks = {getattr(m, "rank", None) for m in modules.values()}
    alphas = {getattr(m, "alpha", None) for m in modules.values()}
    if len(ranks) == 1 and None not in ranks:
        found["lora_rank"] = found["ss_network_dim"] = str(ranks.pop())
    if len(alphas) == 1 and None not in alphas:
        found["lora_alpha"] = f"{alphas.pop():g}"
        if "lora_rank" in found:  # else it is the constraint of a rotation
            found["ss_network_alpha"] = found["lora_alpha"]
    return found


def peft_config(modules: "Mapping[str, LoraWeights]") -> str:
    """The LoraConfig that diffusers loads the tensors with: alpha = rank everywhere."""
    ranks = {name: m.rank for name, m in modules.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    odd = {name: r for name, r in sorted(ranks.items()) if r != rank}
    config: dict[str, Any] = {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": odd,
        "alpha_pattern": odd,
        "target_modules": sorted(modules),
        "use_dora": any(m.magnitude is not None for m in modules.values()),
        "lora_bias": any(m.bias is not None for m in modules.values()),
    }
    return json.dumps({f"transformer.{k}": v for k, v in config.items()}, sort_keys=True)
