"""Facts of the machine that a run is for: this one, a chip of the catalogue, or a recorded one.

A device that cannot be used is refused here, and never exchanged for the CPU in silence."""

import os
from pathlib import Path

from sd3tune.backends.decide import chips
from sd3tune.backends.observe.awaited import Awaited
from sd3tune.backends.observe.facts import GIB, Facts, TorchReport
from sd3tune.errors import ErrorAndHint, HardwareError
from sd3tune.filesystem import temporary
from sd3tune.processes.environment import ALONE, Processes


def facts_of(name: str, processes: Processes = ALONE) -> Facts:
    """A catalogued chip, or the machine whose `sd3tune doctor --json` is in a file, with the
    devices that the processes would use. Raises ConfigError for another name, HardwareError for a
    machine that cannot train."""
    if name.endswith(".json"):
        from sd3tune.backends.observe import recorded_machine

        there = recorded_machine.facts(Path(name)).of_processes(processes.local_size)
        refuse_broken(there)
        refuse_exclusive(there, processes)
        return there
    return chips.facts(chips.chip(name))


def refuse_broken(facts: Facts) -> None:
    """A device that cannot be used is an error, and never a silent run on the CPU. Raises
    HardwareError with everything that is broken: of the machine, and of these devices."""
    # A package is missing for every device, and the CPU has nothing to fall back to.
    helpless = ("software.",) if facts.accelerated else ("software.", "probe.")
    other = "; SD3TUNE_BACKEND=cpu trains on the CPU instead"
    broken = [
        ErrorAndHint(p.message, p.fix + ("" if p.id.startswith(helpless) else other))
        for p in (*facts.problems, *(p for d in facts.devices for p in d.problems))
        if p.severity == "fail"
    ]
    if broken:
        raise HardwareError.of(broken)


def observe(processes: Processes = ALONE, awaited: Awaited | None = None) -> Facts:
    """This machine, with as many devices as there are processes. No probe is run. Raises
    HardwareError where nothing can train."""
    # A plan for another machine needs none of them: 20 modules.
    from sd3tune.backends.observe import kept_answers, this_machine
    from sd3tune.backends.observe.kept_torch import KeptTorch

    temporary.refuse_none()  # children answer through files
    kept = KeptTorch(kept_answers.folder(os.environ))
    _, torch, facts = this_machine.observe(awaited=awaited, kept=kept)
    return usable(torch, facts, processes)


def usable(torch: TorchReport, facts: Facts, processes: Processes) -> Facts:
    """One device for each process of this machine, in the order in which the user has them.
    Raises HardwareError where PyTorch is missing or broken, or there are fewer devices."""
    if torch.version is None or torch.error is not None:
        words = f"cannot be imported: {torch.error}" if torch.error else "is not installed"
        hint = "bash scripts/setup installs it; `sd3tune doctor` looks further"
        raise HardwareError(f"PyTorch {words}", hint=hint)
    alone = facts.of_processes(1 if facts.takes_any_number_of_processes else processes.local_size)
    refuse_broken(alone)
    if facts.takes_any_number_of_processes:
        return alone
    if len(facts.devices) < processes.local_size:
        words = (
            f"{processes.local_size} processes, and {len(facts.devices)} devices on this machine"
        )
        if (chosen := facts.devices[0].chosen_by) is not None:
            words += f" ({chosen})"
        raise HardwareError(words, hint=f"start {len(facts.devices)} or fewer with --nproc")
    refuse_exclusive(alone, processes)
    return alone


def refuse_exclusive(facts: Facts, processes: Processes) -> None:
    """Processes of one run open each other's devices, which a card in compute mode
    EXCLUSIVE_PROCESS does not allow. Raises HardwareError."""
    exclusive = [d for d in facts.devices if d.exclusive]
    if processes.local_size > 1 and exclusive:
        names = ", ".join(f"{d.torch_device} {d.name}" for d in exclusive)
        words = f"{processes.local_size} processes, and the compute mode of {names} is "
        cards = ",".join(str(d.physical_index) for d in exclusive)
        hint = f"sudo nvidia-smi -i {cards} -c 0, or train with one process"
        raise HardwareError(f"{words}EXCLUSIVE_PROCESS", hint=hint)


def refuse_full(need_bytes: int, facts: Facts, processes: Processes) -> None:
    """A run of several processes is planned for devices that nobody else uses, since each process
    makes the plan and sees another moment of the others' memory. What is free is checked here: by
    each process on its own device, and on all of them before the processes start. Raises
    HardwareError."""
    own = facts.devices
    if "WORLD_SIZE" in os.environ:
        own = own[processes.local_rank : processes.local_rank + 1]
    full = [d for d in own if d.free is not None and (d.usable_bytes or 0) < need_bytes]
    if full:
        raise HardwareError.of([
            ErrorAndHint(
                f"{d.free} on {d.torch_device} {d.name}, and the run needs about "
                f"{need_bytes / GIB:.1f} GiB",
                "stop the programs that use it, or leave it out (docs/guides/devices.md)",
            )
            for d in full
        ])  # fmt: skip
