"""The plan of a run on a device whose probes have shown that it can do what the plan chooses."""

from sd3tune import devices
from sd3tune.backends.decide.admission import ProbeRunner, admit
from sd3tune.backends.decide.probes import IMPORT, RATES
from sd3tune.backends.observe.facts import Facts
from sd3tune.config.files.lycoris_config import load_lycoris
from sd3tune.config.files.prompts import load_prompts
from sd3tune.discovered import Discovered
from sd3tune.plan.describe import decisions
from sd3tune.plan.inputs import Count, RunInputs, not_counted
from sd3tune.plan.kernel_shape import to_measure
from sd3tune.plan.plan import Plan
from sd3tune.plan.resolve import resolve
from sd3tune.processes.environment import Processes
from sd3tune.sd3 import variants


def admit_plan(
    found: Discovered,
    model: variants.Model,
    facts: Facts,
    processes: Processes,
    run: ProbeRunner,
    count: Count = not_counted,
) -> Plan:
    """Raises HardwareError where nothing can train, PlanError and ConfigError as `resolve` does."""
    config = found.config
    lycoris = load_lycoris(config.lycoris_config) if config.lycoris_config else None
    prompts = len(load_prompts(config))
    rest = found.samples, found.datasets.images, processes, lycoris, prompts, count

    def decide(facts: Facts) -> Plan:
        return resolve(RunInputs(config, facts, model, *rest))

    needed = [f"{IMPORT}lycoris-lora"] if lycoris is not None else []
    admitted = admit(facts, decide, chosen, run, needed, (RATES,), to_measure)
    devices.refuse_broken(admitted.facts)
    return admitted.decided


def chosen(plan: Plan) -> dict[str, str]:
    """Axis -> the name of its chosen option."""
    return {axis: decision.value for axis, decision in decisions(plan).items()}
