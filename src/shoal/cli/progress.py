"""Progress of a verb: bars on a terminal, a line now and then elsewhere."""

import datetime as dt
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import click
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from shoal.cli import output
from shoal.telemetry.progress import Progress

LINE_EVERY_S = 10.0


@contextmanager
def reporting() -> Iterator[Progress]:
    """Show progress on stderr while the block runs."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=output.console(err=True), transient=True) as bars:
        yield _Bars(bars)


class _Bars:
    """A bar per task, gone when the task is over."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def start(self, task: str, total: int | None) -> None:
        self._tasks[task] = self._bars.add_task(output.cell_text(task), total=total)

    def advance(self, task: str, by: int = 1) -> None:
        self._bars.advance(self._tasks[task], by)

    def finish(self, task: str) -> None:
        self._bars.remove_task(self._tasks.pop(task))


@dataclass(slots=True)
class _Task:
    total: int | None
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)


class _Lines:
    """A log line at the start and the end of a task, and every ten seconds between."""

    def __init__(self) -> None:
        self._tasks: dict[str, _Task] = {}

    def start(self, task: str, total: int | None) -> None:
        self._tasks[task] = _Task(total)
        _log(task)

    def advance(self, task: str, by: int = 1) -> None:
        known = self._tasks[task]
        known.done += by
        now = time.monotonic()
        if now - known.told >= LINE_EVERY_S:
            known.told = now
            _log(f"{task}: {known.done:,} of {'?' if known.total is None else f'{known.total:,}'}")

    def finish(self, task: str) -> None:
        known = self._tasks.pop(task)
        _log(f"{task}: done in {time.monotonic() - known.began:.1f} s")


def _log(line: str) -> None:
    click.echo(f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ} {output.cell_text(line)}", err=True)
