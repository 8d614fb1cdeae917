"""`sd3tune image`: build, run and check the container images on this host."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sd3tune.cli import words
from sd3tune.cli.arguments import JSON
from sd3tune.escaping import echo

if TYPE_CHECKING:
    from sd3tune.containers.check import CheckLine
    from sd3tune.containers.host_image import Choice

VENDOR = click.option(
    "--vendor",
    type=click.Choice(["cuda", "rocm"]),
    help="which image; left out: the one for the card of this host",
)
IMAGE = click.option(
    "--image", metavar="TAG", help="its name [default: sd3tune:cuda, sd3tune:rocm]"
)
CPU = click.option("--cpu", is_flag=True, help="pass no card in, and train on the CPU on purpose")
GPUS = click.option(
    "--gpus", default="all", show_default=True, metavar="all|N,N", help="which cards are passed in"
)
NETWORK = click.option("--network", metavar="NAME", help="the engine's network, as in docker run")


@click.group("image", short_help="Container images on this host: build, run, check.")
def command() -> None:
    """Container images on this host: build, run, check. Clouds start them themselves.

    The image is chosen for the card of this host, and gets what that vendor's containers need:
    devices, groups, shared memory. The working directory becomes /workspace.

    \b
      sd3tune image check                           would a container train here?
      sd3tune image build                           from the repository
      sd3tune image run doctor                      what it sees inside
      sd3tune image run train my/config.json        train; Ctrl-C saves
      sd3tune image run --print train my/config.json   print `docker run …`
    """


@command.command(
    context_settings={"show_default": True}, short_help="Build the image from the repository."
)
@VENDOR
@IMAGE
@click.option(
    "--base-image", metavar="IMAGE", help="another Debian or Ubuntu with Python 3.11 to 3.13"
)
@click.option("--build-arg", "arguments", multiple=True, metavar="NAME=VALUE",
              help="an ARG of the Dockerfile; LOCK=cpu builds without CUDA or ROCm")  # fmt: skip
@click.option("--secret", "secrets", multiple=True, metavar="id=ID,src=FILE",
              help="a file for the build alone; id=ca: certificates, id=links: address of wheels"
              )  # fmt: skip
@NETWORK
def build(
    vendor: str | None,
    image: str | None,
    base_image: str | None,
    arguments: tuple[str, ...],
    secrets: tuple[str, ...],
    network: str | None,
) -> None:
    """Build the image of a vendor, from the repository around the working directory.

    Needs the `docker` command with BuildKit, a running engine, and some 10 GB of disk. A second
    build after a change of sd3tune takes seconds.
    """
    from sd3tune.containers import build as building
    from sd3tune.containers import engine

    given = building.arguments(arguments)
    choice = _choice(vendor)
    kind = choice.kind
    if base_image:
        given = (f"BASE_IMAGE={base_image}", *given)
    tag = image or f"sd3tune:{kind}"
    asked = building.Build(kind, tag, building.sources(), given, secrets, network)
    _say(choice)
    building.build(asked)
    size = building.size_bytes(engine.connect(), tag)
    words.show([f"built {tag}, {size / 10**9:.2f} GB unpacked"])


@command.command(
    context_settings={"allow_interspersed_args": False}, short_help="Run a command in a container."
)
@click.argument("arguments", nargs=-1, metavar="COMMAND...", required=True, type=click.UNPROCESSED)
@VENDOR
@IMAGE
@GPUS
@CPU
@click.option("--workspace", default=".", show_default="working directory", metavar="DIR",
              type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="becomes /workspace: configuration, images, results")  # fmt: skip
@click.option("--env", "variables", multiple=True, metavar="NAME[=VALUE]",
              help="a variable of the container; HF_TOKEN is always passed")  # fmt: skip
@click.option(
    "--mount",
    "mounts",
    multiple=True,
    metavar="DIR:DIR",
    help="another folder, as in docker run -v",
)
@click.option(
    "--publish",
    "ports",
    multiple=True,
    metavar="[ADDRESS:]HOST:CONTAINER",
    help="a port, as in docker run -p",
)
@click.option("--user", metavar="UID:GID", help="whose files are written [default: yours]")
@click.option(
    "--shm-size",
    default="16g",
    show_default=True,
    help="size of /dev/shm (not for AMD: the host's is used)",
)
@NETWORK
@click.option("--print", "only_print", is_flag=True, help="print the `docker run` command instead")
def run(arguments: tuple[str, ...], vendor: str | None, only_print: bool, **options: Any) -> None:
    """Run a command of sd3tune in a container: output, exit code and signals are those of sd3tune.

    SIGTERM or Ctrl-C make a training run finish its step and save, as without a container. Weights
    are read from this host's Hugging Face folder, and downloaded to it. Options go before COMMAND.

    \b
      sd3tune image run train config/config.json
      sd3tune image run --gpus 0,1 train config/config.json --nproc 2
      sd3tune image run --cpu --workspace demo train config/config.json
      eval "$(sd3tune image run --print bash)"    a shell with the same access
    """
    from sd3tune.containers import engine, foreground
    from sd3tune.containers.container_spec import docker_command
    from sd3tune.containers.run_options import RunOptions, container

    client = None if only_print else engine.connect()
    choice = _choice(vendor)
    info = client.info() if client else {}
    terminal = (sys.stdout if client else sys.stdin).isatty()
    described = container(choice.kind, arguments, RunOptions(terminal=terminal, **options), info)
    _say(choice)
    if client is None:
        echo(docker_command(described))
        return
    sys.exit(foreground.run(client, described))


@command.command(short_help="Would a container train on this host?")
@VENDOR
@IMAGE
@GPUS
@CPU
@NETWORK
@JSON
def check(as_json: bool, vendor: str | None, image: str | None, **options: Any) -> None:
    """Engine, toolkit, image, and what the image's own doctor sees in a container. Exit code 1 when
    a container could not train here."""
    from sd3tune.containers import host_image
    from sd3tune.containers.check import check as checking
    from sd3tune.containers.run_options import RunOptions, container

    choice = _choice(vendor)
    kind, tag = choice.kind, image or f"sd3tune:{choice.kind}"
    host_image.cards(kind, options["gpus"])  # a value that cannot be understood is refused first
    _say(choice)
    make = partial(container, kind, ("doctor",), RunOptions(image=tag, **options))
    toolkit = host_image.needs_toolkit(kind) and not options["cpu"]
    found = list(checking(tag, make, toolkit))
    echo(document(found)) if as_json else words.show(lines(found))
    sys.exit(0 if can_train(found) else 1)


@command.command("stop-pod", short_help="Stop the rented machine this runs on.")
@click.option("--after", "code", default=0, help="exit code of the run that ended")
def stop_pod(code: int) -> None:
    """Stop the RunPod or Vast.ai machine this runs on, as SD3TUNE_STOP_POD says.

    The entrypoint of the images calls this after a run: `never` (the default), `success`, `always`.
    Untested on the platforms.
    """
    from sd3tune.containers.pod import stop

    echo(stop(code))


def can_train(found: "Sequence[CheckLine]") -> bool:
    """Whether nothing is in the way of training in a container."""
    return not any(line.status == "FAIL" for line in found)


def lines(found: "Sequence[CheckLine]") -> list[words.Line]:
    """What was checked, and the verdict."""
    shown = [part for line in found for part in words.status_lines(line)]
    return [*shown, "", f"a container can{'' if can_train(found) else 'not'} train here"]


def document(found: "Sequence[CheckLine]") -> str:
    """`image check --json`."""
    content = {"can_train": can_train(found), "lines": [asdict(line) for line in found]}
    return words.document("image check", content)


def _choice(vendor: str | None) -> "Choice":
    from sd3tune.backends.observe import machine
    from sd3tune.containers.host_image import choose

    return choose(machine.survey(), vendor)


def _say(choice: "Choice") -> None:
    from sd3tune.report.messages import say

    say(f"image for {choice.kind} ({choice.reason})")
