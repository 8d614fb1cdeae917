"""The samplers of pictures: diffusers' schedulers that integrate SD3's flow, by the names of the
settings. Each draws, with enough steps, the picture that `euler` draws (a test compares them)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from sd3tune.errors import ConfigError
from sd3tune.sd3 import flow
from sd3tune.sd3.variants import tokens

DEFAULT = "euler"


def scheduler(name: str, shift: float | None) -> Any:
    """The scheduler of that name with the schedule of training. shift: one for all sizes; None:
    by the number of tokens. Raises ConfigError for a name or a shift that it does not have.

    A static shift is applied twice to the last noise level of `euler` and `heun`, as in Stability's
    get_sigmas and ComfyUI's `normal`; a dynamic shift once.
    """
    refuse(name, shift)
    return SAMPLERS[name](shift)


def refuse(name: str, shift: float | None, setting: str = "sampler") -> None:
    """Raises ConfigError for a sampler that is not known, or that cannot do this shift."""
    if name not in SAMPLERS:
        raise ConfigError(
            f"`{setting}={name}` is not a sampler of SD3", hint=f"use one of {', '.join(SAMPLERS)}"
        )
    if name == "heun" and shift is None:
        raise ConfigError(
            f"`{setting}=heun`: diffusers' Heun sampler has no shift by the number of tokens",
            hint="set a number for the shift, or use euler",
        )


def dynamic_shift(name: str, shift: float | None, size: tuple[int, int]) -> float | None:
    """mu, as the pipeline takes it; None where the scheduler needs none or has diffusers' own. The
    pipeline's rule reads constants that only Euler's configuration has, and would take 1.16 in
    place of 1.15. size: width and height in pixels."""
    return math.log(flow.auto_shift(tokens(*size))) if shift is None and name != DEFAULT else None


def _euler(shift: float | None) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    if shift is None:
        return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return FlowMatchEulerDiscreteScheduler(shift=shift)


def _heun(shift: float | None) -> Any:
    from diffusers import FlowMatchHeunDiscreteScheduler

    return FlowMatchHeunDiscreteScheduler(shift=shift)


def _unipc(shift: float | None) -> Any:
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(**_flow(shift))


def _dpm(shift: float | None) -> Any:
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(**_flow(shift))


def _flow(shift: float | None) -> dict[str, Any]:
    """Arguments that make a scheduler of diffusion one of the straight path."""
    own = {"use_dynamic_shifting": True} if shift is None else {"flow_shift": shift}
    return {"prediction_type": "flow_prediction", "use_flow_sigmas": True, **own}


SAMPLERS: Mapping[str, Callable[[float | None], Any]] = {
    "euler": _euler,
    "heun": _heun,
    "unipc": _unipc,
    "dpm++": _dpm,
}
