"""The shapes at which attention kernels and products in 8 bits are measured for a run."""

from sd3tune.backends.decide import kernel_speeds, product_speeds
from sd3tune.plan.plan import Plan
from sd3tune.sd3.variants import CLIP_TOKENS
from sd3tune.tables.schemes import SCHEMES


def kernels_to_measure(plan: Plan) -> list[str]:
    """The probe of attention kernels at the run's shape: the joint attention of its largest bucket.
    None where the user set a kernel, or there is no choice."""
    load, decision = plan.memory.load, plan.attention.training
    if decision.source.by == "user" or not kernel_speeds.has_choice(plan.facts):
        return []
    dtype = plan.precision.autocast.value or plan.precision.base.value
    tokens = load.tokens + load.text_tokens + CLIP_TOKENS
    return [kernel_speeds.probe_of(load.batch, plan.model.transformer.heads, tokens, dtype)]


def products_to_measure(plan: Plan) -> list[str]:
    """The probe of products in 8 bits at the run's width: where the user set a scheme that has
    them, and on a card where one may be chosen. Layers that train are never quantised."""
    decision, hardware = plan.precision.transformer, plan.facts
    multiplies = SCHEMES[decision.value].multiplies
    refused = {r.name for r in decision.rejected}
    open_ = decision.source.by != "user" and hardware.accelerated and not plan.memory.load.full
    possible = [name for name in product_speeds.multiplying() if name not in refused]
    if not multiplies and not (open_ and possible):
        return []
    dtype = plan.precision.autocast.value or plan.precision.base.value
    return [product_speeds.probe_of(plan.memory.load.tokens, plan.model.transformer.hidden, dtype)]


def to_measure(plan: Plan) -> list[str]:
    """All probes that measure at the shapes of a run."""
    return [*kernels_to_measure(plan), *products_to_measure(plan)]
