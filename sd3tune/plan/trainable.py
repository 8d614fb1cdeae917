"""What is trained, counted from names and sizes before a weight is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass

from sd3tune.config.config import Config
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.decision import Decision
from sd3tune.errors import ConfigError
from sd3tune.plan import lycoris_size
from sd3tune.sd3.variants import Model

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # as suffixes: attn and, on SD3.5 medium, attn2


@dataclass(frozen=True)
class Trainable:
    """count: values that the optimizer moves. decisions: how they came about."""

    count: int
    decisions: Mapping[str, Decision[str]]

    @classmethod
    def of(cls, config: Config, model: Model, lycoris: Lycoris | None) -> "Trainable":
        """Raises ConfigError when nothing would be trained."""
        if config.model_type == "full":
            return _full(config, model)
        return _lycoris(config, model, lycoris) if lycoris else _lora(config, model)


def _full(config: Config, model: Model) -> Trainable:
    count = model.transformer.parameters
    why = f"every weight of the transformer: {_amount(count)}"
    return Trainable(count, {"model_type": Decision("full", config.source("model_type"), why)})


def _lycoris(config: Config, model: Model, lycoris: Lycoris) -> Trainable:
    found = lycoris_size.matched(model.transformer, lycoris)
    if not found:
        raise ConfigError(
            f"`{config.lycoris_config}`: apply_preset matches no linear layer of {model.name}",
            hint="target_module takes class names: Attention, FeedForward, JointTransformerBlock",
        )
    count = lycoris_size.parameters(model.transformer, lycoris)
    why = f"{_amount(count)} in {len(found)} layers, {_share(count, model)}"
    return Trainable(
        count, {"lora_type": Decision(f"lycoris {lycoris.algo}", config.source("lora_type"), why)}
    )


def _lora(config: Config, model: Model) -> Trainable:
    targets = tuple(config.peft_lora_target_modules or LORA_TARGETS)
    shape = model.transformer
    for target in targets:
        if not shape.targeted((target,)):
            raise ConfigError(
                f"`peft_lora_target_modules`: `{target}` matches no linear layer of {model.name}",
                hint="attention layers end in to_q, to_k, to_v, to_out.0, add_q_proj, …; "
                "feed-forward ones in net.0.proj, net.2",
            )
    layers = shape.targeted(targets)
    count = shape.lora_parameters(config.lora_rank, targets)
    if config.use_dora:
        count += sum(linear.outputs for linear in layers)
    why = (
        f"rank {config.lora_rank}: {_amount(count)} in {len(layers)} layers, {_share(count, model)}"
    )
    source = config.source("peft_lora_target_modules")
    decision = Decision(",".join(targets), source, why)
    return Trainable(count, {"peft_lora_target_modules": decision})


def _amount(count: int) -> str:
    return f"{count / 1e6:.2f} M trained parameters"


def _share(count: int, model: Model) -> str:
    return f"{count / model.transformer.parameters:.2%} of the transformer"
