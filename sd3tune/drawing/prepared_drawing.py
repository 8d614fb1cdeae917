"""From what is asked to a plan for this machine: the devices are observed, and probes run as for
training, so that `sample` decides as `plan` and `train` do."""

import os
from dataclasses import replace
from functools import partial

from sd3tune import devices
from sd3tune.backends.decide.admission import ProbeRunner, admit, recorded
from sd3tune.backends.observe import probing
from sd3tune.backends.observe.awaited import Awaited
from sd3tune.backends.observe.facts import Facts
from sd3tune.errors import PlanError
from sd3tune.plan.drawing import DrawingAsked, DrawingPlan, drawing_decisions, resolve_drawing
from sd3tune.report.progress import waiting

PROBING = "probing the device, once per machine and set of packages"
OPTIONS = {"base_model_precision": "--quantise"}  # axis -> the option that sets it


def plan_drawing(asked: DrawingAsked, *, on_cpu: bool = False) -> DrawingPlan:
    """The plan for this machine. on_cpu: whatever else it has. Raises HardwareError and
    PlanError."""
    if on_cpu:
        os.environ["SD3TUNE_BACKEND"] = "cpu"  # for the children that probe as well
    awaited = Awaited()
    shown = partial(waiting, awaited.words(PROBING))
    run = probing.on_this_machine(while_running=shown, awaited=awaited)
    with waiting(awaited.words("looking at the devices")):
        facts = devices.observe(awaited=awaited)
    return admit_drawing(asked, facts, run)


def plan_drawing_on(asked: DrawingAsked, chip: str) -> DrawingPlan:
    """The plan for another machine, as `devices.facts_of` takes it."""
    facts = devices.facts_of(chip)
    return admit_drawing(asked, facts, recorded(facts.smoke))


def admit_drawing(asked: DrawingAsked, facts: Facts, run: ProbeRunner) -> DrawingPlan:
    """The plan from facts of a machine and the answers of its probes."""
    alone = facts.of_processes(1)
    decide = partial(resolve_drawing, asked)
    try:
        admitted = admit(alone, decide, _chosen, run)
    except PlanError as e:
        raise _by_option(e) from None
    devices.refuse_broken(admitted.facts)
    return replace(admitted.decided, facts=admitted.facts)


def _chosen(plan: DrawingPlan) -> dict[str, str]:
    """Axis -> the name of its option, of the axes that matter for drawing."""
    named = {"mixed_precision": "no", "hidden_kernels": ""}
    found = {}
    for axis, decision in drawing_decisions(plan).items():
        value = decision.value
        if isinstance(value, bool):
            value = "on" if value else "off"
        found[axis] = named.get(axis, "") if value is None else str(value)
    return found


def _by_option(error: PlanError) -> PlanError:
    """The same refusal with the options of this command in place of the settings."""
    words, hint = str(error), error.hint
    if words.startswith("no usable base_model_precision"):
        hint = "draw smaller pictures (--size), with a smaller model, or on the CPU: --on-cpu"
    for setting, option in OPTIONS.items():
        words = words.replace(f"`{setting}=", f"`{option} ")
        hint = hint.replace(f"`{setting}`", f"`{option}`").replace(f"{setting}=", f"{option} ")
    return PlanError(words, hint=hint)
