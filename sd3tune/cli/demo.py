"""`sd3tune demo`: a model, captioned pictures and configuration files; afterwards, the judge."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sd3tune.cli import words
from sd3tune.errors import ConfigError
from sd3tune.report.progress import waiting
from sd3tune.tables import architectures

if TYPE_CHECKING:
    from sd3tune.demo import WrittenDemo
    from sd3tune.demo.lesson import Lesson

PAINTER = "painter"


@click.command("demo", short_help="Write a small model that paints, pictures and configuration.")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--model",
    default=PAINTER,
    show_default=True,
    type=click.Choice([PAINTER, *architectures.ARCHITECTURES]),
    help="painter: paints shapes, and learns a new one; the others: a released model's structure "
    "with random weights, and photographs",
)
@click.option("--force", is_flag=True, help="write everything again over an older demo")
@click.option(
    "--judge",
    is_flag=True,
    help="after training: draw without and with the LoRA in DIR, and count the right pictures",
)
def command(folder: Path, model: str, force: bool, judge: bool) -> None:
    """Write a small SD3.5, captioned pictures and configuration files to DIR.

    The painter is a model of a few million parameters that paints shapes in colours. The demo's
    pictures show a shape that it has never seen, a heart; training takes about a minute on a CPU.
    """
    if judge:
        from sd3tune.demo import lesson

        if force or model != PAINTER:
            raise ConfigError("--judge writes no demo", hint="leave out --force and --model")
        words.show(verdict_lines(lesson.judge(folder)))
        return
    from sd3tune.demo import write

    with waiting("writing the demo"):
        written = write(folder, model=model, force=force)
    words.show(lines(written))


def lines(written: "WrittenDemo") -> list[words.Line]:
    """What was written, and the command to go on with."""
    return [
        *(f"wrote  {path}" for path in written.paths),
        "",
        f"next   {written.next_command}",
    ]


def verdict_lines(lesson: "Lesson") -> list[words.Line]:
    """The judge's counts, and where the pictures are."""
    return [*lesson.lines, "", f"wrote  {lesson.sheet}", f"wrote  {lesson.table}"]
