"""Starts the processes of a run that needs several."""

import sys

from sd3tune.cli.arguments import config_of
from sd3tune.report import messages
from sd3tune.report.progress import waiting


def launch_processes(arguments: tuple[str, ...]) -> None:
    """Where the settings ask for several processes: starts them, waits, and exits with their code.
    Where they ask for one, this process is the run, and nothing happens."""
    with waiting("reading the configuration"):
        from sd3tune.config.run_files import load_run

        config, _ = load_run(*config_of(arguments))
    if config.num_processes * config.num_machines == 1:
        return
    from sd3tune.processes.launch import Machines, launch

    machines = Machines(
        config.num_machines, config.machine_rank, config.main_process_ip, config.main_process_port
    )
    flags = messages.FLAGS[messages.verbosity()]
    sys.exit(launch(config.num_processes, machines, (*flags, *arguments)))
