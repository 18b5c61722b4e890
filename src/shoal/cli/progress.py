"""Progress on the command line: bars on a terminal, now and then a line elsewhere."""

import contextlib
import time
from collections.abc import Iterator

import click
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from shoal.cli.output import console
from shoal.telemetry.progress import Progress

LINE_EVERY_S = 5.0


class Bars:
    """Progress as bars on a terminal."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def start(self, task: str, total: int | None) -> None:
        """Show a bar."""
        self._tasks[task] = self._bars.add_task(task, total=total)

    def advance(self, task: str, by: int = 1) -> None:
        """Move the bar."""
        self._bars.advance(self._tasks[task], by)

    def finish(self, task: str) -> None:
        """Fill the bar."""
        number = self._tasks[task]
        total = next(shown.total for shown in self._bars.tasks if shown.id == number)
        self._bars.update(number, completed=total, refresh=True)


class Lines:
    """Progress as a line every few seconds, for logs."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._totals: dict[str, int | None] = {}
        self._last = 0.0

    def start(self, task: str, total: int | None) -> None:
        """Say that it begins."""
        self._done[task], self._totals[task] = 0, total
        self._last = time.monotonic()

    def advance(self, task: str, by: int = 1) -> None:
        """Say how far it is, if the last line is a while ago."""
        self._done[task] += by
        if time.monotonic() - self._last >= LINE_EVERY_S:
            self._say(task)

    def finish(self, task: str) -> None:
        """Say that it is over."""
        self._say(task)

    def _say(self, task: str) -> None:
        self._last = time.monotonic()
        done, total = self._done[task], self._totals[task]
        share = f"{done:,}" if total is None else f"{done:,} of {total:,}"
        if total is None and not done:  # there was nothing to count
            share = "done"
        click.echo(f"{task}: {share}", err=True)


@contextlib.contextmanager
def reporting() -> Iterator[Progress]:
    """Progress that the person at this terminal, or the reader of this log, can follow."""
    err = console(err=True)
    if not err.is_terminal:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with RichProgress(*columns, console=err, transient=True) as bars:
        yield Bars(bars)
