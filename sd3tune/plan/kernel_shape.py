"""The shape at which attention kernels are measured for a run."""

from sd3tune.backends.decide import kernel_speeds
from sd3tune.plan.plan import Plan
from sd3tune.sd3.variants import CLIP_TOKENS


def kernels_to_measure(plan: Plan) -> list[str]:
    """The probe of attention kernels at the run's shape: the joint attention of its largest bucket.
    None where the user set a kernel, or there is no choice."""
    load, decision = plan.memory.load, plan.attention.training
    if decision.source.by == "user" or not kernel_speeds.has_choice(plan.facts):
        return []
    dtype = plan.precision.autocast.value or plan.precision.base.value
    tokens = load.tokens + load.text_tokens + CLIP_TOKENS
    return [kernel_speeds.probe_of(load.batch, plan.model.transformer.heads, tokens, dtype)]
