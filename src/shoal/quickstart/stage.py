"""Where the acts are played: what they print on, and how they show that something is going on."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from shoal.telemetry.progress import Progress


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
        self.console.print()
        self.console.rule(f"[bold]{act}  {title}[/bold]", align="left")
        self.console.print(about, style="dim")

    def say(self, line: str) -> None:
        """Print one line."""
        self.console.print(line, highlight=False)

    def show(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a small table: words to the left, everything in the later columns to the right."""
        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 3, 0, 0))
        for position, column in enumerate(columns):
            table.add_column(column, justify="left" if position == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)
