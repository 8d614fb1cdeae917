"""The lines of progress.py as rich draws them on a terminal."""

from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from sd3tune.escaping import one_line


class Count(ProgressColumn):
    """`12/120`; `12` as long as nobody knows how many there are."""

    def render(self, task: Task) -> Text:
        """rich calls this for each drawing."""
        done = f"{int(task.completed)}"
        text = done if task.total is None else f"{done:>{len(str(int(task.total)))}}/{task.total}"
        return Text(text, style="progress.download")


class NameNow(ProgressColumn):
    """What is waited for, as it stands; cut where the terminal ends."""

    def __init__(self, text: Callable[[], str], console: Console) -> None:
        width = max(20, console.width - 14)  # beside it: a spinner and the time
        super().__init__(Column(no_wrap=True, overflow="ellipsis", max_width=width))
        self._text = text

    def render(self, task: Task) -> Text:
        """rich calls this for each drawing."""
        return Text(one_line(self._text()))


def counted_line(console: Console) -> Progress:
    """Name, bar, count, time left and words of work that can be counted."""
    return Progress(
        _description(console),
        BarColumn(bar_width=16),  # what is left of eighty columns is for the words
        Count(Column(no_wrap=True)),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        console=console,
    )


def waiting_line(text: Callable[[], str], console: Console) -> Progress:
    """What is waited for and the time since it began. Nothing is left at the end."""
    columns = (SpinnerColumn("line"), NameNow(text, console), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def _description(console: Console) -> TextColumn:
    """A long name is cut, so that the numbers beside it are still seen."""
    column = Column(no_wrap=True, overflow="ellipsis", max_width=console.width * 3 // 7)
    return TextColumn("{task.description}", markup=False, table_column=column)
