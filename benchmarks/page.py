"""The measured table as a page of the documentation, and as JSON beside it."""

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.case import Result

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
"""Between these lines of the README stands :func:`summary`."""

_HEAD = """# Measured

Written by `make bench`. Each peer ran in the same run as Shoal, on the same rows; every number is the median of
several measurements (the last column says of how many), taken in turns with the peer's. Keys are two string columns,
`(device, sensor)`, in no order. Models that are many and slow to fit are deep copies of fewer fits, each an object with
arrays of its own, so that no loop profits from a warm cache.
`python -m benchmarks --only NAME` repeats one case, `--quick` tries it with a tenth of the work.
"""


class Measured(msgspec.Struct, kw_only=True):
    """One case as it was measured last.

    Attributes
    ----------
    on : str
        The day, ISO format.
    repeats : int
        Measurements per number.
    machine : dict
        What it was measured on.
    load : float
        Load average before the first case: how busy the machine was with other things.
    lines : list of Result
        Its lines of the table.
    """

    on: str
    repeats: int
    machine: dict[str, str]
    load: float
    lines: list[Result]


def publish(results: Mapping[str, Sequence[Result]], *, order: Sequence[str], repeats: int, load: float) -> None:
    """Bring new numbers into the table; cases that did not run keep their old ones."""
    path = ROOT / "docs" / "benchmarks.json"
    known = msgspec.json.decode(path.read_bytes(), type=dict[str, Measured]) if path.exists() else {}
    today, here = dt.datetime.now(dt.UTC).date().isoformat(), machine.describe()
    for name, lines in results.items():
        known[name] = Measured(on=today, repeats=repeats, machine=here, load=load, lines=list(lines))
    known = {name: known[name] for name in order if name in known}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(known), indent=2) + b"\n")
    (ROOT / "docs" / "benchmarks.md").write_text(_page(known))
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{summary(known)}{END}{after}")


def summary(known: Mapping[str, Measured]) -> str:
    """The table as the README has it: what, against what, how it came out, and whether that is enough."""
    newest = max(known.values(), key=lambda measured: measured.on)
    rows = "\n".join(
        f"| {line.case} | {line.against} | {result(line)} | {asked(line)} | {verdict(line)} |"
        for measured in known.values()
        for line in measured.lines
    )
    place = f"{newest.machine['CPU']}, load average {newest.load:.1f} before the run"
    return (
        f"Measured on {place}. Both sides and notes are in [docs/benchmarks.md](docs/benchmarks.md), written "
        f"by `make bench`.\n\n| case | against | result | asked for | |\n|---|---|--:|--:|---|\n{rows}\n"
    )


def _page(known: Mapping[str, Measured]) -> str:
    newest = max(known.values(), key=lambda measured: measured.on)
    where = "\n".join(f"- {name}: {words}" for name, words in newest.machine.items())
    busiest = max(measured.load for measured in known.values())
    table = "\n".join(_row(line, measured) for measured in known.values() for line in measured.lines)
    notes = "\n".join(
        f"- {line.case}, against {line.against}: {line.note}."
        for measured in known.values()
        for line in measured.lines
        if line.note
    )
    return (
        _HEAD
        + f"\nMeasured last on {newest.on}:\n\n{where}\n- Load average before the run: {busiest:.1f}\n\n"
        + "Machines of this kind are shared, and one day's may be more than twice as fast as another's: compare the "
        + "sides of a line, not lines of different days.\n\n"
        + "| case | against | Shoal | peer | result | asked for | | on | of |\n|---|---|--:|--:|--:|--:|---|---|--:|\n"
        + f"{table}\n\nTo read it rightly:\n\n{notes}\n"
    )


def _row(line: Result, measured: Measured) -> str:
    sides = (line.case, line.against, line.shoal, line.peer)
    cells = (*sides, result(line), asked(line), verdict(line), measured.on, str(measured.repeats))
    return "| " + " | ".join(cells) + " |"


def asked(line: Result) -> str:
    """The limit in words; empty where there is none."""
    return "" if line.limit is None else f"{line.bound} {figure(line.limit, line.unit)}"


def verdict(line: Result) -> str:
    """Whether the limit was met; empty where there is none."""
    if line.limit is None:
        return ""
    return "met" if line.met else "**missed**"


def result(line: Result) -> str:
    """What came out, with so many digits that one that just misses its limit does not look like it."""
    shown = figure(line.figure, line.unit)
    if line.limit is None or line.met or shown != figure(line.limit, line.unit):
        return shown
    return f"{line.figure:.6g}" + shown.lstrip("0123456789.,")


def figure(value: float, unit: str) -> str:
    """A figure with three digits and its unit."""
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return digits + (unit if unit in "x%" else f" {unit}")
