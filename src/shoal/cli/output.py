"""What verbs print: tables for people, JSON for programs.

Nothing but a terminal ever receives colours or other control sequences, nor does text from the database bring any.
"""

import dataclasses
import datetime as dt
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

Cell: TypeAlias = str | int | float | bool | dt.datetime | dt.date | Sequence[object] | Mapping[str, object] | None
"""What a table's cell may hold."""

_UNBOUNDED = 100_000

Command = TypeVar("Command", bound=Callable[..., object])


def json_option(command: Command) -> Command:
    """Give a verb the flag ``--json``, as the argument ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def examples(*lines: str) -> str:
    """Lines for the end of a verb's help (``epilog``), which are not run together."""
    # Click leaves a paragraph as it is when its first line is a backspace.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def console(*, err: bool = False) -> Console:
    """The console to print on. A pipe or file gets lines as long as they need be, and never a control sequence."""
    stream = sys.stderr if err else sys.stdout
    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,
        no_color=None if terminal else True,
        width=None if terminal else _UNBOUNDED,
        highlight=False,
        markup=False,
        emoji=False,
    )


def print_listing(rows: Iterable[Mapping[str, Cell]], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print rows as a table, or as JSON objects with all that they hold.

    Parameters
    ----------
    rows : iterable of mapping
        What to print.
    columns : sequence of str
        Keys of the rows that the table shows, in order.
    as_json : bool
        JSON instead of a table.
    empty : str
        What to say instead of an empty table.
    """
    listed = list(rows)
    if as_json:
        print_json(listed)
    elif listed:
        print_table(listed, columns)
    else:
        console(err=True).print(empty)


def unless_filtered(empty: str, **filters: object) -> str:
    """What to say of an empty listing: that nothing matches its filters, where there are any.

    Parameters
    ----------
    empty : str
        What to say where there are none.
    **filters : object
        By the name of the option; None where it was not given.
    """
    given = [f"--{name} {value}" for name, value in filters.items() if value is not None]
    return f"nothing matches {' '.join(given)}" if given else empty


def print_table(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str]) -> None:
    """Print a table; numbers stand to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        numeric = any(isinstance(row.get(name), int | float) for row in rows)
        table.add_column(name.upper().replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell_text(row.get(name))) for name in columns))
    console().print(table)


def print_facts(facts: Mapping[str, Cell]) -> None:
    """Print names and values, one below the other; what is empty is left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None and value != "" and value != () and value != {}:
            grid.add_row(name.replace("_", " "), Text(cell_text(value)))
    console().print(grid)


def print_json(value: object) -> None:
    """Print JSON: dataclasses as objects, times as ISO 8601, NaN as null."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def fields(record: object) -> dict[str, Cell]:
    """The fields of a record by name."""
    assert dataclasses.is_dataclass(record)
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def cell_text(value: Cell) -> str:
    """A value as people read it; unprintable characters become a mark, so that text cannot steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in _plain(value))


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_part(part)}" for name, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_part, value))
    return _part(value)


def _part(value: object) -> str:
    """A value inside another; what holds values itself is written as JSON, else nobody could tell where it ends."""
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dt.datetime):
        return f"{value.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}Z"
    if isinstance(value, Mapping | Sequence):
        return msgspec.json.encode(value).decode()
    return str(value)
