"""The command line: parse, call one function, print. Nothing is decided here.

Logs go to stderr, data to stdout. Exit codes: 0 done, 1 the user or the machine has to change
something, 2 a bug in sd3tune or a misspelt command, 75 another process of the run is gone, 129, 130
and 143 stopped by SIGHUP, SIGINT and SIGTERM after saving, if there was anything to save.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

import click

from sd3tune import __version__, escaping
from sd3tune.cli import surroundings
from sd3tune.cli.arguments import config_of, prepared
from sd3tune.cli.cache import cache
from sd3tune.cli.image import image
from sd3tune.errors import ConfigError, Sd3tuneError
from sd3tune.escaping import ReaderGone, echo, one_line, sentence
from sd3tune.report import stopping, streams
from sd3tune.tables import architectures

AFTER_SECONDS = 2.0  # an error of all processes is said once: their launcher ends the others
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=HELP)
@click.version_option(__version__, prog_name="sd3tune")
@click.pass_context
def cli(context: click.Context) -> None:
    """Fine-tune Stable Diffusion 3 and 3.5 on NVIDIA, AMD and Apple hardware, or on a CPU.

    \b
    First time here?
      sd3tune doctor                            can this machine train, and if not, what to do
      sd3tune demo DIR                          tiny models, photographs and configuration files
      sd3tune dataset DIR/config/config.json    what was understood of the images and captions
      sd3tune train DIR/config/config.json      a first run, end to end, in minutes on a CPU
    """
    surroundings.find_working_directory(context.invoked_subcommand)


cli.add_command(cache)
cli.add_command(image)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
@click.option(
    "--on",
    "chip",
    metavar="NAME",
    help="a catalogued chip instead of this machine; `--on list` names them all",
)
@click.option("--quick", is_flag=True, help="look, but run nothing on the device (under a second)")
@click.option("--deep", is_flag=True, help="slow probes too: torch.compile on a CPU")
@click.option("--no-device", is_flag=True, help="check the software only: for image builds")
@click.option(
    "--report",
    "bundle",
    is_flag=False,
    flag_value="sd3tune-report.json",
    metavar="[FILE]",
    type=click.Path(path_type=Path, dir_okay=False),
    help="write a file without names or serial numbers that helps us with hardware like this",
)
def doctor(
    as_json: bool, chip: str | None, quick: bool, no_device: bool, deep: bool, bundle: Path | None
) -> None:
    """Can this machine train, and what would sd3tune choose here?

    Every line is `ok`, `warn`, `FAIL` or `skip`, with the measured fact and where it was read;
    every warn and FAIL has a fix. Exit code 0 when training can start, 1 when it cannot.

    \b
      sd3tune doctor                 look at everything and compute on the device
      sd3tune doctor --quick         look only
      sd3tune doctor --on rtx4090    what a card you do not have could do
      sd3tune doctor --report        what you can send us of this machine
    """
    from sd3tune.cli import render
    from sd3tune.doctor import consult, examine

    if chip and bundle:
        words = "`--report` is of this machine, and `--on` of another"
        raise ConfigError(words, hint="leave out one of them")

    if chip == "list":
        from sd3tune.backends.decide import chips

        echo("\n".join(chips.keys()))
        return
    report = consult(chip) if chip else examine(quick=quick, device=not no_device, deep=deep)
    document = render.doctor_json(report)
    echo(document if as_json else render.doctor(report))
    if bundle:
        from sd3tune.doctor.report import write

        echo(write(json.loads(document), bundle), err=True)
    sys.exit(0 if report.can_train else 1)


@cli.command()
@click.argument("words", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
@click.option(
    "--on",
    "chip",
    metavar="NAME",
    help="plan for a catalogued chip, or for the "
    "machine whose `doctor --json` is in the file NAME.json",
)
def plan(words: tuple[str, ...], as_json: bool, chip: str | None) -> None:
    """What a run would do, need and refuse, before any weight is loaded or money spent.

    CONFIG is config/config.json unless given. KEY=VALUE words override the file.

    \b
      sd3tune plan
      sd3tune plan my/config.json lora_rank=64 --on mi300x
      sd3tune plan my/config.json --on rented.json
    """
    from sd3tune.cli import render

    made = prepared(words, chip).plan
    echo(render.plan_json(made) if as_json else render.plan(made))


@cli.command()
@click.argument("words", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="print the plan and stop")
@click.option(
    "--nproc",
    type=click.IntRange(1),
    metavar="N",
    help="processes on this machine, one for each device (num_processes)",
)
@click.option(
    "--resume",
    metavar="latest|PATH|never",
    help="checkpoint to continue from (resume_from_checkpoint)",
)
def train(words: tuple[str, ...], dry_run: bool, nproc: int | None, resume: str | None) -> None:
    """Train as CONFIG says, and leave the result, checkpoints and pictures in output_dir.

    CONFIG is config/config.json unless given. KEY=VALUE words override the file. A run that was
    stopped continues from its newest whole checkpoint; with --resume never it starts afresh, and
    earlier checkpoints are moved aside. Ctrl-C or SIGTERM finishes the step, saves and leaves with
    exit code 130 or 143; a second one stops at once, and the last checkpoint holds. So does a
    terminal that is closed (SIGHUP, 129), unless nohup is before the command. A log that cannot be
    written any more (`| tee` ended, its disk is full) does not end training.

    One output_dir has one run at a time.

    Several devices: --nproc N here, or torchrun or `accelerate launch --multi_gpu` around this
    command. When a process dies, all of one machine's start again from the newest checkpoint;
    over several machines, start the command again on each (docs/guides/devices.md).

    \b
      sd3tune train my/config.json max_train_steps=500 learning_rate=5e-5
      sd3tune train my/config.json --nproc 4
      torchrun --nproc-per-node 4 --no-python sd3tune train my/config.json
    """
    from sd3tune.cli import render
    from sd3tune.processes.environment import end_with_launcher, processes

    more = {"num_processes": nproc, "resume_from_checkpoint": resume}
    words += tuple(f"{key}={value}" for key, value in more.items() if value is not None)
    if not dry_run:
        streams.outlive()
        stopping.stop_when_told()
    who = processes(os.environ)
    if not dry_run and "WORLD_SIZE" not in os.environ:
        _launched(words)
    end_with_launcher(os.environ)
    made = prepared(words, None)
    if who.main:
        echo(render.plan(made.plan), err=not dry_run)
    if dry_run:
        return
    from sd3tune.config.files.prompts import load_prompts
    from sd3tune.train.run import train as run

    outcome = run(made, load_prompts(made.plan.config))
    if who.main:
        echo(render.outcome(outcome))
    sys.exit(128 + outcome.signal if outcome.signal else 0)


@cli.command()
@click.argument("words", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
@click.option("--decode", is_flag=True, help="decode every image too: finds files broken inside")
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    help="where the contact sheet goes (contact_sheet.png in output_dir; with --json: nowhere)",
)
@click.option("--images", default=24, show_default=True, type=click.IntRange(1, 400),
              help="images on the contact sheet")  # fmt: skip
def dataset(
    words: tuple[str, ...], as_json: bool, decode: bool, sheet: Path | None, images: int
) -> None:
    """What was understood of the datasets: sizes, crops, captions, buckets, refused files.

    CONFIG is config/config.json unless given. Only headers are read, unless --decode is given; no
    model is loaded. The contact sheet shows originals with their crop drawn in, masks in red.

    \b
      sd3tune dataset
      sd3tune dataset my/config.json --decode
      sd3tune dataset my/config.json --json | jq '.datasets[].buckets'
    """
    from sd3tune import dataset_inspection
    from sd3tune.cli import render
    from sd3tune.data import run_folders

    path, overrides = config_of(words)
    seen = dataset_inspection.inspect(path, overrides, decode=decode)
    if sheet is None and not as_json:
        sheet = seen.found.config.output_dir / "contact_sheet.png"
    elif sheet is not None:
        run_folders.refuse_as_image(seen.found.config, seen.found.datasets, sheet)
    if sheet is not None:
        dataset_inspection.draw_sheet(seen, sheet, images)
    echo(render.dataset_json(seen) if as_json else render.dataset(seen, sheet))


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--model",
    default=architectures.DEFAULT.name,
    show_default=True,
    type=click.Choice(list(architectures.ARCHITECTURES)),
    help="which of the tiny models the configuration trains",
)
@click.option("--force", is_flag=True, help="write everything again over an older demo")
def demo(folder: Path, model: str, force: bool) -> None:
    """Write tiny SD3 models, captioned photographs and configuration files to DIR.

    The models have the real architectures and random weights: they train, save and sample through
    the code path of the 8B model, and their pictures are noise.
    """
    from sd3tune.cli import render
    from sd3tune.demo import write

    echo(render.demo(write(folder, model=model, force=force)))


@cli.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="PATH")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def inspect(path: Path, as_json: bool) -> None:
    """What a file is: an adapter of any dialect, a model, a checkpoint, and which programs read it.

    PATH is a .safetensors file, a checkpoint folder, a model folder or an output folder. Headers
    are read, not weights, except that every byte of a checkpoint is compared with its checksum.

    \b
      sd3tune inspect somebodys_lora.safetensors
      sd3tune inspect output/checkpoint-500
      sd3tune inspect sd3.5_medium.safetensors --json | jq .facts
    """
    from sd3tune.cli import artefacts
    from sd3tune.formats.identify import look

    seen = look(path)
    echo(artefacts.inspected_json(seen) if as_json else artefacts.inspected(seen))


@cli.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="SOURCE")
@click.option(
    "--to",
    "dialect",
    required=True,
    type=click.Choice(["diffusers", "comfyui", "kohya"]),
    help="whose dialect: comfyui is also Swarm's, kohya has fused query, key and value",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="the file to write; left out: beside SOURCE, with the dialect in its name",
)
@click.option(
    "--model", metavar="MODEL", help="the base it was trained on: DoRA, OFT and GLoRA need it"
)
@click.option(
    "--rank",
    type=click.IntRange(1),
    help="turn what is no LoRA into LoRA of this rank; the error is printed",
)
@click.option("--force", is_flag=True, help="write over an existing file")
def export(
    source: Path,
    dialect: str,
    output: Path | None,
    model: str | None,
    rank: int | None,
    force: bool,
) -> None:
    """Write an adapter so that another program renders it as it was trained.

    SOURCE is an adapter file of any dialect, a checkpoint, or the output folder of a run. Of a
    diffusers model folder, --to comfyui writes the transformer as one file. Nothing is dropped:
    what a program has no form for is an error that says what helps.

    \b
      sd3tune export output --to comfyui
      sd3tune export dora.safetensors --to comfyui --model stabilityai/stable-diffusion-3.5-medium
      sd3tune export lokr.safetensors --to diffusers --rank 32 --output lora.safetensors
    """
    from sd3tune.cli import artefacts
    from sd3tune.formats.convert import export as run

    done = run(source, dialect, output=output, model=model, rank=rank, force=force)  # type: ignore[arg-type]
    echo(artefacts.exported(done))


def _launched(words: tuple[str, ...]) -> None:
    """Leaves with the exit code of several processes, when the settings ask for them."""
    from sd3tune.config.config import Config

    config = Config.load(*config_of(words))
    if config.num_processes * config.num_machines == 1:
        return
    from sd3tune.processes.launch import Machines, launch

    machines = Machines(
        config.num_machines, config.machine_rank, config.main_process_ip, config.main_process_port
    )
    sys.exit(launch(config.num_processes, machines, words))


def main() -> None:
    streams.open_closed()
    escaping.prepare()
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.ClickException as e:
        echo(f"error: {sentence(e.format_message())}", err=True)
        echo(f"hint: `{one_line(_help_command(e))}` lists what there is", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        echo(
            "error: interrupted\nhint: what was finished is kept; the same command continues",
            err=True,
        )
        sys.exit(130)
    except stopping.Stopped as e:
        sys.exit(e.exit_code)
    except Sd3tuneError as e:
        if os.environ.get("RANK", "0") != "0":
            time.sleep(AFTER_SECONDS)
        echo(f"error: {sentence(e)}", err=True)
        echo(f"hint: {sentence(e.hint)}", err=True)
        sys.exit(e.exit_code)
    except ReaderGone:  # `sd3tune plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python still holds
        sys.exit(0)
    except (OSError, UnicodeEncodeError) as e:
        if (said := surroundings.refusal(e)) is None:
            _bug(e)
        echo(f"error: {one_line(said[0])}\nhint: {said[1]}", err=True)
        sys.exit(1)
    except Exception as e:  # everything raised on purpose is an Sd3tuneError
        _bug(e)


def _bug(e: Exception) -> NoReturn:
    import traceback

    echo(traceback.format_exc().rstrip(), err=True)
    echo(f"error: this is a bug in sd3tune: {type(e).__name__}: {sentence(e)}", err=True)
    hint = "please report it with the lines above and the file of `sd3tune doctor --report`"
    echo(f"hint: {hint}", err=True)
    sys.exit(2)


def _help_command(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)  # only usage errors know where they happened
    return f"{context.command_path if context else 'sd3tune'} --help"


if __name__ == "__main__":
    main()
