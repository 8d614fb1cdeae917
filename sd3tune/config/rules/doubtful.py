"""Settings that work as documented but may not be intended. A row that holds is a warning.

Recipes: docs/guides/stability.md. Warnings that need the model's size or the scaled learning rate
are in plan/warnings.py.
"""

from collections.abc import Callable

from sd3tune.config.rules.contradictions import changed
from sd3tune.config.rules.idle import no_pictures
from sd3tune.config.rules.rule import Rule
from sd3tune.config.settings.all_settings import AllSettings
from sd3tune.tables.loss_types import LOSS_TYPES
from sd3tune.tables.lr_schedulers import LR_SCHEDULERS
from sd3tune.tables.optimizers import OPTIMIZERS

SHIFTS = ("flow_schedule_shift", "flow_schedule_auto_shift")


def warning(
    names: str, when: Callable[[AllSettings], object], sentence: str, hint: str
) -> Rule[AllSettings]:
    """names: the settings it concerns, between blanks."""
    return Rule(tuple(names.split()), "warning", when, sentence, hint)


# Learning rate from which on nobody published a run, of optimizers that neither find their own rate
# nor follow the plain gradient.
UNHEARD_OF = 0.05


def unheard_of(c: AllSettings) -> bool:
    """Whether the learning rate is far above all that are published for the optimizer."""
    name = c.optimizer or "adamw"
    usual = OPTIMIZERS[name].rate_limit <= 1 and name != "adamw_schedulefree"
    return usual and UNHEARD_OF <= c.learning_rate < OPTIMIZERS[name].rate_limit


DOUBTFUL = (
    warning(
        "learning_rate optimizer",
        unheard_of,
        "learning_rate={c.learning_rate:g} is far above published rates, which lie between 1e-6 "
        "and 1e-3",
        "lower it, or expect the weights to be lost in the first steps",
    ),
    warning(
        "loss_type huber_schedule",
        lambda c: LOSS_TYPES[c.loss_type].bends and c.huber_schedule == "snr",
        "huber_schedule=snr forgives large errors where there is little noise, its paper "
        "(arXiv:2403.16728) where there is much",
        "huber_schedule=exponential does what the paper says",
    ),
    warning(
        "validation_preview validation_preview_steps validation_num_inference_steps "
        "validation_disable validation_prompt user_prompt_library",
        lambda c: (
            c.validation_preview
            and c.validation_preview_steps > c.validation_num_inference_steps
            and not no_pictures(c)
        ),
        "validation_preview_steps={c.validation_preview_steps} is above "
        "validation_num_inference_steps={c.validation_num_inference_steps}: no preview is drawn",
        "lower validation_preview_steps",
    ),
    warning(
        "flow_custom_timesteps flow_schedule_shift flow_schedule_auto_shift validation_disable "
        "validation_prompt user_prompt_library",
        lambda c: (
            next(
                (name for name in SHIFTS if c.source(name).by == "user" and changed(c, name)), None
            )
            if c.flow_custom_timesteps and not no_pictures(c)
            else None
        ),
        "{which} changes validation pictures only: flow_custom_timesteps are taken as they are",
        "leave out one of them",
    ),
    warning(
        "optimizer model_type optimizer_config",
        lambda c: (
            c.optimizer == "soap"
            and c.model_type == "full"
            and "max_precondition_dim" not in c.optimizer_options
        ),
        "soap preconditions sides of a matrix up to max_precondition_dim=256, and the model's are "
        "wider: on whole weights it is AdamW",
        "raise max_precondition_dim in optimizer_config; memory grows with its square",
    ),
    warning(
        "optimizer lr_scheduler",
        lambda c: c.optimizer == "adamw_schedulefree" and LR_SCHEDULERS[c.lr_scheduler].falls,
        "lr_scheduler={c.lr_scheduler} with a schedule-free optimizer: averaging replaces decay",
        "use constant_with_warmup",
    ),
    warning(
        "lr_scheduler lr_num_cycles",
        lambda c: c.lr_scheduler == "cosine_with_restarts" and c.lr_num_cycles == 1,
        "cosine_with_restarts never restarts with lr_num_cycles=1",
        "set 2 or more",
    ),
)
