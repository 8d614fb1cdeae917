"""Options of the axes that have a table of their own: one for each row of `sd3tune/tables`."""

from sd3tune.backends.decide.option import Option
from sd3tune.backends.decide.rules import (
    Request,
    Rule,
    decided,
    fits,
    not_full,
    rule_of,
    smoke,
)
from sd3tune.backends.observe.facts import Facts
from sd3tune.tables.needs import Need
from sd3tune.tables.optimizers import OPTIMIZERS
from sd3tune.tables.schemes import SCHEMES, Scheme


def _rules(needs: tuple[Need, ...]) -> tuple[Rule, ...]:
    return tuple(rule_of(need) for need in needs)


def optimizers() -> tuple[Option, ...]:
    return tuple(Option(o.name, _rules(o.needs), o.about, auto=o.auto) for o in OPTIMIZERS.rows)


def trains_bf16(r: Request) -> bool:
    return OPTIMIZERS[r.optimizer or "adamw"].bf16_weights


def bf16_trained(f: Facts, r: Request) -> str | None:
    """Only an optimizer that keeps small updates trains bf16 weights."""
    if trains_bf16(r):
        return None
    return (
        f"{r.optimizer} trains float32 weights: in bf16 an update below 1/256 of a weight is lost"
    )


def fp32_trained(f: Facts, r: Request) -> str | None:
    if trains_bf16(r):
        return f"{r.optimizer} trains bf16 weights"
    if r.model_type == "full":
        return decided("base_model_default_dtype", "fp32")(f, r)
    return None


TRAINABLE: tuple[Option, ...] = (
    Option("bf16", (bf16_trained,), "adamw_bf16 trains bf16 weights"),
    Option("fp32", (fp32_trained,), "small updates vanish in half precision"),
)


def unsharded(f: Facts, r: Request) -> str | None:
    return "quantised weights cannot be split over processes (FSDP)" if r.sharded else None


def only_transformer(row: Scheme) -> Rule:
    """Encoding takes minutes and its results are kept: an error there would stay for nothing."""
    return lambda f, r: f"8-bit products are for the transformer: use {row.weights}-quanto"


OF_THE_TRANSFORMER: tuple[Rule, ...] = (
    not_full("weights that are trained cannot be quantised"),
    unsharded,
    lambda f, r: r.whole_weights,
)


def schemes(*, sized: bool, transformer: bool = False) -> tuple[Option, ...]:
    """The quantisation schemes of one model. sized: the model is large enough to be quantised when
    memory is short; others are quantised only when the user asks. transformer: it is the model
    that is trained."""
    return tuple(_scheme(row, sized, transformer) for row in SCHEMES.rows)


def _scheme(row: Scheme, sized: bool, transformer: bool) -> Option:
    rules = _rules(row.needs)
    if row.multiplies and not transformer:
        rules += (only_transformer(row),)
    if row.quantises:
        rules += OF_THE_TRANSFORMER if transformer else ()
        rules += (smoke(f"linear_{row.name}"),)
    if sized:
        rules += (fits(row.name),)
    auto = row.auto and (sized or not row.quantises)
    return Option(row.name, rules, row.about, auto, lambda f: row.level_on(f.vendor))
