"""What will run, and may disappoint. Recipes: docs/guides/stability.md."""

from collections.abc import Iterator

from sd3tune.config import flow
from sd3tune.config.config import Config
from sd3tune.errors import ConfigError
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.optimisation import OptimizerPlan
from sd3tune.sd3.variants import Model

LARGE = 5_000_000_000  # SD3.5 large has 8 billion parameters, medium 2.5


def warnings(inputs: RunInputs, optimizer: OptimizerPlan) -> tuple[str, ...]:
    """Sentences for the user, printed with the plan and kept in every checkpoint."""
    config, name, peak = inputs.config, optimizer.name.value, optimizer.peak_rate.value
    return (
        *_of_optimisation(config, inputs.model, name, peak),
        *flow.doubtful(config),
        *flow.idle(config, inputs.datasets),
        *_of_pictures_and_machine(inputs),
    )


def refuse_impossible_training(inputs: RunInputs) -> None:
    """Raises ConfigError for regularisation images where no base model can be asked."""
    full, sharded = inputs.config.model_type == "full", inputs.config.fsdp_enable
    held = next((d.id for d in inputs.datasets if d.is_regularisation_data), None)
    if full and held is not None:
        raise ConfigError(
            f"dataset `{held}`: is_regularisation_data needs the model as it was, and "
            "model_type=full keeps no copy of it",
            hint="set model_type=lora, or leave the dataset out",
        )
    if sharded and held is not None:
        raise ConfigError(
            f"dataset `{held}`: is_regularisation_data takes a pass more, and with fsdp_enable all "
            "processes must run the same number of them",
            hint="leave out fsdp_enable, or the dataset",
        )


def _of_pictures_and_machine(inputs: RunInputs) -> Iterator[str]:
    config, facts, lycoris = inputs.config, inputs.facts, inputs.lycoris
    if config.validation_guidance_skip_layers and config.validation_guidance <= 1:
        yield (
            "validation_guidance of 1 or less switches skip-layer guidance off (diffusers does no "
            "guidance at all then)"
        )
    if lycoris is not None and lycoris.dora_wd:
        yield (
            "ComfyUI divides DoRA by another length than lycoris-lora: of a dora_wd file it draws "
            "something else; `sd3tune export --to comfyui` writes what it draws right"
        )
    if config.fsdp_enable and inputs.processes.size == 1:
        yield "fsdp_enable=true changes nothing: there is one process to hold the weights"
    if facts.untested_on_hardware:
        kind = f"hardware of this kind ({facts.vendor})"
        yield f"sd3tune is untested on {kind}; please report what you see"


def _of_optimisation(config: Config, model: Model, optimizer: str, peak: float) -> Iterator[str]:
    """peak: the learning rate after lr_scale."""
    large = model.transformer.parameters > LARGE
    if large and optimizer == "optimi-stableadamw" and peak >= 4e-5:
        yield (
            f"learning_rate {peak:g} with StableAdamW on {model.name}: 4e-5 and above has diverged "
            "there; 1e-5 held"
        )
    if large and not 0 < config.max_grad_norm <= 1:
        how = f"max_grad_norm={config.max_grad_norm:g}"
        off = " switches clipping off, which" if not config.max_grad_norm else ""
        yield (
            f"{how}{off} lets single batches through on {model.name}, whose runs are known to "
            "diverge from them; 0.1 to 1 held"
        )
    if optimizer == "prodigy" and not 0.1 <= peak <= 10:
        yield (
            f"learning_rate {peak:g} is a factor on the rate that Prodigy finds: set 1, or it "
            "takes steps that much too small or large"
        )
    turned = "max_precondition_dim" in config.optimizer_options
    if optimizer == "soap" and config.model_type == "full" and not turned:
        yield (
            "soap turns sides up to max_precondition_dim=256, and the model's are wider: on whole "
            "weights it is AdamW; raise it in optimizer_config, at the price of its square"
        )
    if optimizer == "torch-adadelta" and peak < 0.01:
        yield f"learning_rate {peak:g} is a factor on Adadelta's own step: set about 1"
    if optimizer == "adamw_schedulefree" and not config.lr_scheduler.startswith("constant"):
        yield (
            f"lr_scheduler={config.lr_scheduler} with a schedule-free optimizer: averaging "
            "replaces the decay; use constant_with_warmup"
        )
    if config.lr_scheduler == "cosine_with_restarts" and config.lr_num_cycles == 1:
        yield "cosine_with_restarts never restarts with lr_num_cycles=1: set 2 or more"
    if config.gradient_precision == "fp32" and optimizer != "adamw_bf16":
        yield f"gradient_precision=fp32 changes nothing: {optimizer} trains float32 weights"
