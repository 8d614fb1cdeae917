"""The options of an optimizer, held against the row of its table."""

from typing import TYPE_CHECKING

from sd3tune.tables.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from sd3tune.config.config import Config


def check(c: "Config") -> None:
    """Raises ValueError for an option that the optimizer does not have."""
    name = c.optimizer or "adamw"
    known = OPTIMIZERS[name].option_names
    for option in c.optimizer_options:
        if option not in known:
            has = ", ".join(sorted(known - {"prodigy_steps"}))
            raise ValueError(
                f"`{_setting(c, option)}` has no effect with optimizer={name}; it has {has}"
            )


def _setting(c: "Config", option: str) -> str:
    """Where an option was set."""
    said = {"beta1": c.optimizer_beta1, "beta2": c.optimizer_beta2}.get(option)
    if option == "prodigy_steps":
        return option
    return f"optimizer_config={option}" if said is None else f"optimizer_{option}"
