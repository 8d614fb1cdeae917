"""`sd3tune watch`: a page that shows runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sd3tune.cli import words
from sd3tune.errors import ConfigError
from sd3tune.report.progress import waiting

if TYPE_CHECKING:
    from sd3tune.live.serving import Address, Opened

PACKAGES = ("starlette", "uvicorn", "sse_starlette", "anyio", "h11")


@click.command("watch", short_help="Show runs in the browser: curves, pictures, plan, log.")
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[OUTPUT_DIR]...")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="of the page; 0: any free one  [8711, or the next]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="address to listen on; 0.0.0.0: every one",
)
@click.option(
    "--name", "names", multiple=True, metavar="NAME",
    help="another name that the page is reached by, as behind a cloud's proxy",
)  # fmt: skip
@click.option("--token", metavar="TEXT", help="instead of a random token; 16 characters at least")
@click.option(
    "--receive", type=click.Path(path_type=Path), metavar="DIR",
    help="take webhooks of other machines, and keep each run below DIR",
)  # fmt: skip
@click.option(
    "--export", type=click.Path(path_type=Path), metavar="DIR",
    help="write the page as files that need no server, and end",
)  # fmt: skip
@click.option("--no-browser", is_flag=True, help="only print the address")
def command(
    folders: tuple[Path, ...],
    port: int | None,
    host: str,
    names: tuple[str, ...],
    token: str | None,
    receive: Path | None,
    export: Path | None,
    no_browser: bool,
) -> None:
    """Show runs in the browser while they train, and afterwards.

    OUTPUT_DIR is the output_dir of a run, or several. The page has loss and evaluation curves,
    pictures over steps, the plan with its reasons, the log, checkpoints to download and a button
    that stops the run after saving. It changes nothing in the folders, and needs no network.

    The page is for this machine alone unless --host says otherwise; then the address holds a
    random token. From elsewhere: ssh -L 8711:127.0.0.1:8711 MACHINE

    \b
      sd3tune watch output
      sd3tune watch runs/a/output runs/b/output
      sd3tune watch output --export page
      sd3tune watch --receive received --host 0.0.0.0
    """
    refuse_missing()
    with waiting("reading the runs"):
        from sd3tune.live import serving

    runs = serving.runs_of(folders, receive)
    if export is not None:
        from sd3tune.live.static_export import write

        words.show([f"wrote    {write(runs, export)}"])
        return
    address = serving.Address(host, port, names, token)
    with serving.opened(runs, address, receive) as server:
        words.show(lines(server, address))
        if not no_browser:
            server.show_in_browser()
        server.run()


def lines(server: "Opened", address: "Address") -> list[words.Line]:
    """Where the page is, and how to reach and end it."""
    shown: list[words.Line] = [f"watch    {server.url}"]
    if server.receives:
        shown.append(f"receive  {server.receive_url}  with the token as auth_token")
    if not address.is_loopback:
        shown.append("note: the connection is not encrypted; who has the address can read the runs")
    return [*shown, "         Ctrl-C ends the page, not the run"]


def refuse_missing() -> None:
    """Raises ConfigError where the packages of the page are not installed."""
    from importlib.util import find_spec

    missing = [name.replace("_", "-") for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the page needs Python packages that are not installed: {', '.join(missing)}",
            hint="pip install 'sd3tune[watch]'",
        )
