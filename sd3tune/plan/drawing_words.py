"""What is drawn, in words for the terminal."""

from collections.abc import Iterator

from sd3tune.plan.drawing import DrawingAsked


def asked_words(asked: DrawingAsked) -> Iterator[str]:
    """A line for the sampler and one for each thing that is set beside it."""
    shift = "by the number of tokens" if asked.shift is None else f"{asked.shift:g}"
    guidance = f"guidance {asked.guidance:g}" if asked.guidance > 1 else "no guidance"
    sizes = ", ".join(f"{w}x{h}" for w, h in asked.sizes)
    yield f"sampling {asked.steps} steps of {asked.sampler}, {guidance}, shift {shift}, {sizes}"
    if asked.skip is not None:
        yield f"skipped  {skip_words(asked)}"
    if asked.guidance <= 1 and asked.negative_prompt:
        yield "negative prompt: has no effect, since guidance is 1 or less"


def skip_words(asked: DrawingAsked) -> str:
    """The blocks, and the steps in which they are skipped, counted from 1."""
    skip, n = asked.skip, asked.steps
    if skip is None:
        return "no block"
    steps = [i for i in range(n) if n * skip.start < i < n * skip.stop]
    blocks = ", ".join(map(str, skip.blocks))
    if not steps:
        return f"blocks {blocks}, in none of {n} steps: the window is too short for so few"
    numbers = f"{steps[0] + 1} to {steps[-1] + 1}"
    return f"blocks {blocks}, scale {skip.scale:g}, in steps {numbers} of {n}"
