"""How fast products in 8 bits are beside those of unquantised weights, and what follows from it.

The measured times are words of a probe (quant/product_speed.py), whose name holds the shape. Where
memory asks for weights of 8 bits, those that also multiply in 8 bits (W8A8) are taken if they were
measured to be faster than unquantised ones on this card, and never else. Untested on hardware.
"""

import re
from collections.abc import Mapping, Sequence

from sd3tune.backends.decide.kernel_speeds import seconds_of, words_of
from sd3tune.backends.decide.option import Option
from sd3tune.backends.observe.facts import Facts
from sd3tune.tables.schemes import NO_CHANGE, SCHEMES

PROBE = "product_speed"  # and a shape, as `probe_of` writes it
MARGIN = 0.05  # relative: how much faster they must be
NAMED = re.compile(PROBE + r":(\d+)x(\d+):(fp32|bf16|fp16)")


def probe_of(tokens: int, hidden: int, dtype: str) -> str:
    """The probe that measures linear layers of one width: "product_speed:4096x2432:bf16"."""
    return f"{PROBE}:{tokens}x{hidden}:{dtype}"


def shape_of(probe: str) -> tuple[int, int, str] | None:
    """Tokens, width and number format of such a probe; None for another name."""
    match = NAMED.fullmatch(probe)
    return (int(match[1]), int(match[2]), match[3]) if match else None


def multiplying() -> tuple[str, ...]:
    """The schemes that multiply in 8 bits."""
    return tuple(row.name for row in SCHEMES.rows if row.multiplies)


def ratios(facts: Facts) -> dict[str, float]:
    """Scheme -> how many times as fast as unquantised weights its layers are; empty where the probe
    has not run."""
    plain = facts.product_seconds.get(NO_CHANGE.name)
    measured = {n: s for n, s in facts.product_seconds.items() if n != NO_CHANGE.name}
    return {} if plain is None else {name: plain / each for name, each in measured.items()}


def figures(facts: Facts) -> str:
    """The measured times, as a reason names them."""
    times = sorted(facts.product_seconds.items(), key=lambda pair: pair[1])
    return f"products measured at {facts.measured_at}: {words_of(dict(times))}"


def quickest(default: Option, clean: Sequence[Option], facts: Facts) -> tuple[Option, str]:
    """The scheme to take, and why. default: the first of the table that no rule excludes. clean:
    all that no rule excludes."""
    usable = {o.name: o for o in clean}
    faster = {n: r for n, r in ratios(facts).items() if n in usable}
    if not faster:
        return default, default.because
    best = max(faster, key=lambda name: faster[name])
    if faster[best] < 1 + MARGIN:
        return default, f"{default.because}; {figures(facts)}"
    gain = f"{best} is {faster[best]:.2f} times as fast as unquantised weights"
    same_size = SCHEMES[default.name].stored_bytes == SCHEMES[best].stored_bytes
    if not same_size:
        about = f"base_model_precision={best} would round activations as well"
        return default, f"{default.because}; {gain} ({figures(facts)}); {about}"
    return usable[best], f"{gain}; {figures(facts)}; {usable[best].because}"


def because_asked(scheme: str, facts: Facts) -> str:
    """What is known of the speed of a scheme that the user set; empty for schemes that multiply as
    unquantised weights do."""
    ratio, row = ratios(facts).get(scheme), SCHEMES[scheme]
    if ratio is not None:
        return f"{ratio:.2f} times as fast as unquantised weights; {figures(facts)}"
    if not row.multiplies or not facts.accelerated:
        return ""
    return f"{row.linear_rate:g} times as fast as unquantised weights by data sheets, not measured"


def ratio_of(scheme: str, measured: Mapping[str, float], *, native: bool) -> float:
    """How many times as fast as unquantised ones the products of a scheme are: measured, or by data
    sheets. native: the device is expected to have units for them."""
    row = SCHEMES[scheme]
    return measured.get(scheme, row.linear_rate if native else 1.0)


def read(words: str) -> dict[str, float]:
    """Scheme -> seconds, from the probe's words."""
    known = {NO_CHANGE.name, *multiplying()}
    return {name: each for name, each in seconds_of(words).items() if name in known and each > 0}
