"""Several devices, several machines."""

from pydantic import Field

from sd3tune.config.fields import Count, Flag, Settings, Whole


class ProcessSettings(Settings):
    """Several devices, several machines."""

    num_processes: Count = Field(1, le=1024)
    """Processes on this machine, one for each device (as --nproc). Under torchrun, torchrun's
    number is used."""
    num_machines: Count = 1
    """How many machines train together; start each with its own machine_rank."""
    machine_rank: Whole = Field(0, ge=0)
    """Number of this machine, from 0."""
    main_process_ip: str = "127.0.0.1"
    """Address of machine 0."""
    main_process_port: Whole = Field(29500, ge=1, le=65535)
    """Port on machine 0 through which the processes find each other."""
    fsdp_enable: Flag = False
    """Split weights, gradients and optimizer state over the processes (FSDP2) instead of keeping a
    copy in each."""
    fsdp_reshard_after_forward: Flag = True
    """Gather weights again for the backward pass instead of keeping them: less memory, more
    traffic."""
