"""Where the acts are played: what they print on, and how they show that something is going on."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from shoal.telemetry.progress import Progress

WIDTH = 96
"""Widest line of an act, in characters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """The terminal as the acts see it.

    Attributes
    ----------
    console : Console
        Where they print.
    progress : Progress
        Where they say how far they are.
    """

    console: Console
    progress: Progress

    def open(self, act: int, title: str, about: str) -> None:
        """Announce an act."""
        width = min(self.console.width, WIDTH)
        self.console.print()
        self.console.print(Rule(Text(f"{act}  {title}", style="bold"), align="left", style="dim"), width=width)
        self.console.print(Text(about, style="dim"), width=width)

    def say(self, *parts: str | tuple[str, str]) -> None:
        """Print one line; a part may come with a style, as in ``("fast", "bold")``."""
        self.console.print(Text.assemble(*parts), width=min(self.console.width, WIDTH))

    def code(self, lines: str) -> None:
        """Print lines to copy: nothing is wrapped or styled."""
        for line in lines.splitlines():
            self.console.print(Text(f"  {line}"), soft_wrap=True)

    def show(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a small table: words to the left, what follows the first column to the right."""
        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 3, 0, 0))
        for position, column in enumerate(columns):
            table.add_column(column, justify="left" if position == 0 else "right")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print(table)
