"""Numbers that cannot be meant, such as an exponent that lost its sign: `learning_rate=1e4`.

A row that holds is an error, whose hint says what was probably meant. Limits that do not depend on
another setting are in the types of the settings.
"""

from sd3tune.config.probable import behind_the_point, other_sign
from sd3tune.config.rules.rule import Rule
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.tables.optimizers import OPTIMIZERS

# Options of optimizers that lie between 0 and 1: decays near 1, and small numbers.
DECAYS = ("beta1", "beta2", "beta3", "shampoo_beta", "momentum", "rho")
SMALL = ("eps", "d0", "lr_decay", "lambd", "momentum_decay")
LARGEST_DECAY = 10.0  # of weights; published values end at 1


def rate_limit(c: AllSettings) -> float:
    """The rate from which on the optimizer cannot train."""
    return OPTIMIZERS[c.optimizer or "adamw"].rate_limit


def too_large(name: str) -> Rule[AllSettings]:
    """A learning rate at or above the optimizer's limit."""

    def meant(c: AllSettings) -> tuple[str, str, str] | None:
        value, optimizer = getattr(c, name), c.optimizer or "adamw"
        if value < rate_limit(c):
            return None
        return f"{rate_limit(c):g}", optimizer, advice(name, value)

    return Rule(
        (name, "optimizer"),
        "error",
        meant,
        f"{name}={{c.{name}:g}} must be below {{which[0]}} with optimizer={{which[1]}}",
        "{which[2]}",
        blamed=(name,),
    )


def advice(setting: str, value: float) -> str:
    """What to write instead of a number that is too large. setting: up to the number."""
    if (guess := other_sign(value)) is None:
        return "published rates lie between 1e-6 and 1e-3; about 1 is for optimizer=prodigy"
    return f"write {setting}={guess}, if the exponent has lost its sign"


def option_out_of_range(c: AllSettings) -> tuple[str, str, str] | None:
    """An option of the optimizer with a value that none can have: as written, its range, what to
    write."""
    own = (c.optimizer_beta1, c.optimizer_beta2)  # their limits are those of their settings
    has = OPTIMIZERS[c.optimizer or "adamw"].option_names  # another rule refuses the others
    for option, value in c.optimizer_options.items():
        limit = 1.0 if option in (*DECAYS, *SMALL) else LARGEST_DECAY
        limited = option in has & {*DECAYS, *SMALL, "weight_decay"}
        known = limited and value not in own
        if known and not 0 <= value < limit:
            guess = behind_the_point(value) if option in DECAYS else other_sign(value)
            hint = f"write {option}={guess}, if that is meant" if guess else "change it"
            written = f"optimizer_config={option}={value:g}"
            return written, f"at least 0 and below {limit:g}", hint
    return None


MAGNITUDES = (
    too_large("learning_rate"),
    too_large("lr_end"),
    Rule[AllSettings](
        ("optimizer_config", "optimizer"),
        "error",
        option_out_of_range,
        "{which[0]} must be {which[1]}",
        "{which[2]}",
        blamed=("optimizer_config",),
    ),
)
