"""From the table of options and the facts to decisions, with every reason kept.

Every rule of every option is evaluated, so that doctor, plan and trainer agree. A value that the
user set is refused when a rule excludes it; an axis without a value takes the first option that no
rule excludes.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from sd3tune.backends.decide import kernel_speeds, limits, product_speeds
from sd3tune.backends.decide.option import Level, Option
from sd3tune.backends.decide.options import AXES, canonical
from sd3tune.backends.decide.rules import Request, one_memory
from sd3tune.backends.observe.facts import Facts
from sd3tune.decision import AUTO, Decision, Provenance, Rejected
from sd3tune.errors import PlanError

# What memory decides; T5 is nine tenths of the encoders.
SIZED = ("attention_mechanism", "base_model_precision", "text_encoder_3_precision")
# The setting that asks for an axis of another name.
SETTING = {"attention_no_grad": "attention_mechanism"}
SMALLER = {
    "base_model_precision": "train a smaller model, resolution or batch, with "
    "gradient_checkpointing=true",
    "text_encoder_3_precision": "set text_encoder_1_precision and text_encoder_2_precision to "
    "int8-quanto; the size of images changes nothing",
}


def why_not(option: Option, facts: Facts, request: Request) -> tuple[str, ...]:
    return tuple(said for rule in option.rules if (said := rule(facts, request)) is not None)


def decide(axis: str, facts: Facts, request: Request) -> Decision[str]:
    """One axis. Raises PlanError when the user's value, or every value, is impossible here."""
    asked = canonical(axis, getattr(request, axis))
    verdicts = {o.name: why_not(o, facts, request) for o in AXES[axis]}
    rejected = tuple(Rejected(name, why) for name, why in verdicts.items() if why)
    if asked is not None:
        return _asked(axis, asked, facts, request, verdicts, rejected)
    clean = [option for option in AXES[axis] if not verdicts[option.name]]
    for option in (o for o in clean if o.auto):
        because = option.because
        if axis == "attention_mechanism" and request.deterministic != "on":
            option, because = kernel_speeds.quickest(option, clean, facts)
        if axis == "base_model_precision":
            option, because = product_speeds.quickest(option, clean, facts)
        return Decision(option.name, AUTO, because, rejected)
    why = "; ".join(f"{r.name}: {r.reasons[0]}" for r in rejected)
    hint = _way_out(axis, facts, request, [n for n, why in verdicts.items() if not why])
    raise PlanError(f"no usable {axis} on {facts.weakest.name}: {why}", hint=hint)


def _way_out(axis: str, facts: Facts, request: Request, spare: list[str]) -> str:
    """The hint of an axis without a usable option. spare: usable options that are chosen only on
    request."""
    if axis == "distributed_backend":
        return "leave out num_processes and --nproc: one process trains here"
    if axis not in SMALLER or not request.too_big:
        return "`sd3tune doctor` shows what this machine lacks"
    hint = SMALLER[axis]
    if axis == "base_model_precision" and one_memory(facts) is None:
        hint += "; blocks_to_swap keeps blocks in host memory"
    if axis == "base_model_precision" and limits.writes_scores(facts, request.attention_mechanism):
        hint += "; attention_mechanism=sliced keeps no scores"
    return hint + (f"; {axis}={_few(spare)} fits when asked for" if spare else "")


def _asked(
    axis: str,
    asked: str,
    facts: Facts,
    request: Request,
    verdicts: dict[str, tuple[str, ...]],
    rejected: tuple[Rejected, ...],
) -> Decision[str]:
    setting = SETTING.get(axis, axis)
    usable = [o.name for o in AXES[setting] if not why_not(o, facts, request)]
    if asked not in verdicts:
        raise PlanError(
            f"`{setting}={asked}` is not one of {', '.join(verdicts)}",
            hint=f"usable on {facts.weakest.name}: {_few(usable)}",
        )
    if verdicts[asked]:
        raise PlanError(
            f"`{setting}={asked}` cannot run on {facts.weakest.name}: {'; '.join(verdicts[asked])}",
            hint=f"usable here: {_few(usable)}; leave `{setting}` out to have it chosen"
            if usable
            else f"leave `{setting}` out; {_way_out(axis, facts, request, [])}",
        )
    because = next(o.because for o in AXES[axis] if o.name == asked)
    if axis == "base_model_precision" and (told := product_speeds.because_asked(asked, facts)):
        because = f"{told}; {because}"
    source = request.sources.get(axis, Provenance("user"))
    written = "set in the configuration; " if source.by == "user" else ""
    return Decision(asked, source, written + because, rejected)


def _few(names: list[str], most: int = 8) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def decide_all(
    facts: Facts,
    request: Request,
    too_big: Callable[[str, Request], Mapping[str, str]] = lambda axis, request: {},
) -> tuple[dict[str, Decision[str]], Request]:
    """Every axis in order; each decision is visible to the rules of the axes after it.

    `too_big` is asked for each axis of SIZED, with what was decided so far: which of its values do
    not fit the memory, and why.
    """
    decisions: dict[str, Decision[str]] = {}
    for axis in AXES:
        if axis in SIZED:
            request = replace(request, too_big=too_big(axis, request))
        decisions[axis] = decide(axis, facts, request)
        request = request.with_value(axis, decisions[axis].value)
    return decisions, request


def capabilities(facts: Facts) -> dict[str, dict[str, tuple[Level, tuple[str, ...]]]]:
    """Axis -> option -> (level, why not): the whole matrix for one machine and a run without
    settings.

    Rules that look at earlier axes see the automatic decisions.
    """
    _, decided = decide_all(facts, Request())
    table: dict[str, dict[str, tuple[Level, tuple[str, ...]]]] = {}
    for axis, options in AXES.items():
        table[axis] = {}
        for option in options:
            why = why_not(option, facts, decided)
            level = option.level(facts)
            table[axis][option.name] = ("none" if why and level == "native" else level, why)
    return table
