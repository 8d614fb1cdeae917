"""The trained parameters, counted from names and sizes before a weight is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sd3tune.config.config import Config
from sd3tune.config.files.lycoris_config import Lycoris
from sd3tune.decision import Decision
from sd3tune.errors import ConfigError
from sd3tune.plan import lycoris_size
from sd3tune.plan.inputs import RunInputs
from sd3tune.sd3.variants import Model

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # as suffixes: attn and, on SD3.5 medium, attn2


@dataclass(frozen=True)
class LoraPlan:
    """An adapter through peft."""

    rank: int
    alpha: float
    dropout: float
    targets: Decision[tuple[str, ...]]  # suffixes of the names of linear layers
    dora: bool
    rslora: bool
    init: Literal["default", "gaussian", "pissa", "olora"]
    dialect: str  # of the file that is written


@dataclass(frozen=True)
class TrainedPlan:
    """What the optimizer moves: an adapter beside frozen weights, or the weights."""

    kind: Decision[Literal["lora", "lycoris", "full"]]
    count: int  # values that the optimizer moves
    lora: LoraPlan | None = None
    lycoris: Lycoris | None = None
    begin_with: Path | None = None  # an adapter file (init_lora)


def trained_plan(inputs: RunInputs) -> TrainedPlan:
    """Raises ConfigError when nothing would be trained."""
    if inputs.config.model_type == "full":
        return _full(inputs.config, inputs.model)
    if inputs.lycoris is not None:
        return _lycoris(inputs.config, inputs.model, inputs.lycoris)
    return _lora(inputs.config, inputs.model)


def _full(config: Config, model: Model) -> TrainedPlan:
    count = model.transformer.parameters
    why = f"every weight of the transformer: {_amount(count)}"
    return TrainedPlan(Decision("full", config.source("model_type"), why), count)


def _lycoris(config: Config, model: Model, lycoris: Lycoris) -> TrainedPlan:
    layers = lycoris_size.matched(model.transformer, lycoris)
    if not layers:
        raise ConfigError(
            f"`{config.lycoris_config}`: apply_preset matches no linear layer of {model.name}",
            hint="target_module takes class names: Attention, FeedForward, JointTransformerBlock",
        )
    count = lycoris_size.parameters(model.transformer, lycoris)
    why = f"{_amount(count)} in {len(layers)} layers, {_share(count, model)}"
    kind: Decision[Literal["lycoris"]] = Decision("lycoris", config.source("lora_type"), why)
    return TrainedPlan(kind, count, lycoris=lycoris, begin_with=config.init_lora)


def _lora(c: Config, model: Model) -> TrainedPlan:
    targets = tuple(c.peft_lora_target_modules or LORA_TARGETS)
    shape = model.transformer
    for target in targets:
        if not shape.targeted((target,)):
            raise ConfigError(
                f"`peft_lora_target_modules`: `{target}` matches no linear layer of {model.name}",
                hint="attention layers end in to_q, to_k, to_v, to_out.0, add_q_proj, …; "
                "feed-forward ones in net.0.proj, net.2",
            )
    layers = shape.targeted(targets)
    count = shape.lora_parameters(c.lora_rank, targets)
    if c.use_dora:
        count += sum(linear.outputs for linear in layers)
    why = f"rank {c.lora_rank}: {_amount(count)} in {len(layers)} layers, {_share(count, model)}"
    lora = LoraPlan(
        rank=c.lora_rank,
        alpha=c.lora_alpha or c.lora_rank,
        dropout=c.lora_dropout,
        targets=Decision(targets, c.source("peft_lora_target_modules"), why),
        dora=c.use_dora,
        rslora=c.use_rslora,
        init=c.lora_init_type,
        dialect=c.lora_format,
    )
    kind: Decision[Literal["lora"]] = Decision("lora", c.source("model_type"), why)
    return TrainedPlan(kind, count, lora=lora, begin_with=c.init_lora)


def _amount(count: int) -> str:
    return f"{count / 1e6:.2f} M trained parameters"


def _share(count: int, model: Model) -> str:
    return f"{count / model.transformer.parameters:.2%} of the transformer"
