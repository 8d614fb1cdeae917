"""Skip-layer guidance without classifier-free guidance.

diffusers 0.42 ignores its arguments of skip-layer guidance, without a word, where guidance is 1 or
less. Stability's reference (Stability-AI/sd3.5, sd3_impls.py, SkipLayerCFGDenoiser) adds the same
term for every guidance. So does this: with guidance of 1 the prediction is

    c + scale (c - s)

c the prediction for the prompt, s the same without some blocks, in the steps i of N with
N start < i < N stop. Guidance below 1 counts as 1, with skipped layers as without: diffusers draws
c, where Stability's formula would mix the negative prompt in.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sd3tune.plan.picture_plan import SkipLayers


@contextmanager
def skipping(pipe: Any, skip: SkipLayers | None, steps: int, *, alone: bool) -> Iterator[None]:
    """Adds the term to every prediction of the pipeline's transformer while the block runs. alone:
    without classifier-free guidance; otherwise the pipeline does it, and this does nothing."""
    if skip is None or not alone:
        yield
        return

    def guided(transformer: Any, _: Any, given: dict[str, Any], predicted: Any) -> Any:
        i = pipe.scheduler.step_index or 0
        if "skip_layers" in given or not steps * skip.start < i < steps * skip.stop:
            return None  # leaves the prediction as it is
        without = transformer(**given, skip_layers=list(skip.blocks))[0]
        return (predicted[0] + (predicted[0] - without) * skip.scale,)

    handle = pipe.transformer.register_forward_hook(guided, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
