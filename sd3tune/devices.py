"""Facts of the machine that a run is for: this one, a chip of the catalogue, or a recorded one.

A device that cannot be used is refused here, and never exchanged for the CPU in silence."""

from dataclasses import replace
from pathlib import Path

from sd3tune.backends.decide import chips
from sd3tune.backends.observe import recorded_machine, this_machine
from sd3tune.backends.observe.facts import Facts, TorchReport
from sd3tune.errors import ErrorAndHint, HardwareError
from sd3tune.filesystem import temporary
from sd3tune.processes.environment import ALONE, Processes


def facts_of(name: str) -> Facts:
    """A catalogued chip, or the machine whose `sd3tune doctor --json` is in a file. Raises
    ConfigError for another name, HardwareError for a machine that cannot train."""
    if name.endswith(".json"):
        there = recorded_machine.facts(Path(name))
        refuse_broken(there)
        return there
    return chips.facts(chips.chip(name))


def refuse_broken(facts: Facts) -> None:
    """A device that cannot be used is an error, and never a silent run on the CPU. Raises
    HardwareError with everything that is broken."""
    # A package is missing for every device, and the CPU has nothing to fall back to.
    helpless = ("software.",) if facts.accelerated else ("software.", "probe.")
    other = "; SD3TUNE_BACKEND=cpu trains on the CPU instead"
    broken = [
        ErrorAndHint(p.message, p.fix + ("" if p.id.startswith(helpless) else other))
        for p in facts.problems
        if p.severity == "fail"
    ]
    if broken:
        raise HardwareError.of(broken)


def observe(processes: Processes = ALONE) -> Facts:
    """This machine, with as many devices as there are processes. No probe is run. Raises
    HardwareError where nothing can train."""
    temporary.refuse_none()  # children answer through files
    _, torch, facts = this_machine.observe()
    return usable(torch, facts, processes)


def usable(torch: TorchReport, facts: Facts, processes: Processes) -> Facts:
    """One device for each process of this machine, in the order in which the user has them.
    Raises HardwareError where PyTorch is missing or broken, or there are fewer devices."""
    if torch.version is None or torch.error is not None:
        words = f"cannot be imported: {torch.error}" if torch.error else "is not installed"
        hint = "bash scripts/setup installs it; `sd3tune doctor` looks further"
        raise HardwareError(f"PyTorch {words}", hint=hint)
    refuse_broken(facts)
    if facts.takes_any_number_of_processes:
        return replace(facts, devices=facts.devices[:1])
    if len(facts.devices) < processes.local_size:
        words = (
            f"{processes.local_size} processes, and {len(facts.devices)} devices on this machine"
        )
        raise HardwareError(words, hint=f"start {len(facts.devices)} or fewer with --nproc")
    return replace(facts, devices=facts.devices[: processes.local_size])
