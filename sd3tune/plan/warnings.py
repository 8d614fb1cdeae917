"""What will run and may disappoint with this model, adapter or machine. What depends on settings
alone is in config/rules. Recipes: docs/guides/stability.md.
"""

from collections.abc import Iterator

from sd3tune.backends.decide import limits
from sd3tune.config import rules
from sd3tune.config.config import Config
from sd3tune.config.rules.contradictions import changed
from sd3tune.plan.inputs import RunInputs
from sd3tune.plan.learning_rate import LearningRate
from sd3tune.plan.optimisation import OptimizerPlan
from sd3tune.plan.rendering import of_rendering
from sd3tune.sd3.variants import Model
from sd3tune.tables.schemes import SCHEMES

OF_T5 = ("text_encoder_3_precision", "t5_padding", "sd3_t5_uncond_behaviour")
LARGE = 5_000_000_000  # SD3.5 large has 8 billion parameters, medium 2.5


def warnings(inputs: RunInputs, optimizer: OptimizerPlan, compiler: str) -> tuple[str, ...]:
    """Sentences for the user, printed with the plan and kept in every checkpoint. compiler: of the
    blocks; `no`: none."""
    config, name, peak = inputs.config, optimizer.name.value, optimizer.peak_rate.value
    return (
        *_of_optimisation(config, inputs.model, name, peak),
        *_of_length(config, optimizer.rate),
        *rules.warnings(config, inputs.datasets),
        *_of_this_run(inputs),
        *_of_products(inputs, compiler),
    )


def _of_this_run(inputs: RunInputs) -> Iterator[str]:
    config, facts, lycoris = inputs.config, inputs.facts, inputs.lycoris
    if lycoris is not None:
        yield from of_rendering(inputs.model, lycoris)
    if not inputs.model.text_encoders[2]:
        idle = [n for n in OF_T5 if config.source(n).by == "user" and changed(config, n)]
        if idle:
            yield f"{' and '.join(idle)} without effect: the model has no T5; leave it out"
    if config.use_dora and config.model_type == "lora" and config.lora_format == "diffusers":
        yield (
            "ComfyUI does not know the magnitudes of use_dora: it renders the LoRA without them; "
            "lora_format=comfyui, or `sd3tune export --to comfyui --model MODEL`, writes what it "
            "renders right"
        )
    if config.validation_preview and inputs.model.tiny_vae is None:
        yield (
            "validation_preview=true draws no previews: no tiny autoencoder is known for "
            f"{inputs.model.name}"
        )
    if config.fsdp_enable and inputs.processes.size == 1:
        yield "fsdp_enable=true changes nothing: there is one process to hold the weights"
    yield from (f"{p.message}: {p.fix}" for p in facts.problems if p.severity == "warn")
    if facts.untested_on_hardware:
        kind = f"hardware of this kind ({facts.vendor})"
        yield f"sd3tune is untested on {kind}; please report what you see"


def _of_products(inputs: RunInputs, compiler: str) -> Iterator[str]:
    """Eager kernels that round and scale take more time on a card than its products in 8 bits
    save: by arithmetic (docs/concepts/eight-bit-products.md), not measured."""
    scheme = SCHEMES[inputs.config.base_model_precision or "no_change"]
    no_faster = limits.COMPILED_NO_FASTER.get(inputs.facts.vendor)
    if scheme.multiplies and no_faster is None and compiler != "inductor":
        yield (
            f"base_model_precision={scheme.name} is expected to be slower than no_change here "
            "unless the blocks are compiled: set dynamo_backend=inductor"
        )


def _of_length(config: Config, rate: LearningRate) -> Iterator[str]:
    """Where epochs are counted, the number of steps is known only here."""
    if not config.max_train_steps and rate.warmup >= rate.total:
        yield (
            f"lr_warmup_steps={rate.warmup} is not below the {rate.total} steps of "
            f"num_train_epochs={config.num_train_epochs}: the learning rate never reaches its "
            "peak; lower lr_warmup_steps, or raise num_train_epochs"
        )


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
    if optimizer == "torch-adadelta" and peak < 0.01:
        yield f"learning_rate {peak:g} is a factor on Adadelta's own step: set about 1"
