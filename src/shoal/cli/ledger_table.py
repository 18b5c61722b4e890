"""The ledger of a run, as people read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shoal.cli.output import Cell, console, print_table
from shoal.jobs.states import RunState, ShardState
from shoal.ledger.records import Reconciliation, RunRecord, RunTotals, ShardRecord
from shoal.types import Json, Outcome

_TRAIN = "train"
_SEGMENTS: Mapping[str, str] = {
    "kept": "kept a model of their own",
    "fallback": "left to a fallback",
    "too_few_rows": "too few rows",
    "failed": "failed",
}
"""What a training's part says of its segments, and how people read it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLedger:
    """What is printed of a run's ledger.

    Attributes
    ----------
    report : Reconciliation
        Its sums.
    state : RunState
        Where the run stands: only one that succeeded is told to reconcile.
    segments : mapping of str to int, or None
        Segments at all levels by what became of them, in a run that trained; its outcomes are of those, not of rows.
    """

    report: Reconciliation
    state: RunState
    segments: Mapping[str, int] | None = None

    @property
    def reconciles(self) -> bool:
        """Whether the run is over and everything met exactly one outcome."""
        return self.state is RunState.SUCCEEDED and self.report.balanced


def ledger_of(record: RunRecord, report: Reconciliation, shards: Sequence[ShardRecord]) -> RunLedger:
    """What to print of the ledger of a run of any kind."""
    if record.kind != _TRAIN:
        return RunLedger(report=report, state=record.state)
    parts: list[Mapping[str, Json]] = [shard.part for shard in shards if shard.part is not None]
    counts = {name: sum(_number(part.get(name)) for part in parts) for name in _SEGMENTS}
    return RunLedger(report=report, state=record.state, segments=counts)


def print_ledger(ledger: RunLedger) -> None:
    """Print what was read, what became of it, and whether it all adds up or how far the run has come."""
    if ledger.segments is None:
        print_table(_rows(ledger.report), ("ledger", "rows"))
    else:
        print_table(_segments(ledger.segments), ("ledger", "segments"))
    out = console()
    for difference in ledger.report.differences:
        out.print(f"does not reconcile: {difference}", style="bold red")
    if ledger.state is not RunState.SUCCEEDED:
        out.print(f"so far: {_so_far(ledger.report.totals)}", style="yellow")
    elif ledger.reconciles and ledger.segments is None:
        out.print("reconciles: every row met exactly one outcome", style="green")


def ledger_json(ledger: RunLedger) -> dict[str, object]:
    """The ledger as a JSON object."""
    report = ledger.report
    outcomes = {name: getattr(report.totals.counts, name) for name in ("rows", *(o.word for o in Outcome))}
    counted = (
        {"source_rows": report.totals.source_rows, **outcomes}
        if ledger.segments is None
        else {"segments": ledger.segments}
    )
    return {
        "input_rows": report.input_rows,
        **counted,
        "shards": dict(report.totals.shards),
        "reconciles": ledger.reconciles,
        "differences": report.differences,
    }


def shards_text(totals: RunTotals) -> str:
    """How many shards stand where, e.g. ``12 done, 1 failed``."""
    return ", ".join(f"{count} {state}" for state, count in totals.shards.items() if count) or "none"


def _so_far(totals: RunTotals) -> str:
    return f"{totals.shards[ShardState.DONE]:,} of {sum(totals.shards.values()):,} shards"


def _rows(report: Reconciliation) -> list[dict[str, Cell]]:
    counts = report.totals.counts
    lines: list[tuple[str, int | None]] = [
        ("in the input files", report.input_rows),
        ("read", report.totals.source_rows),
        ("after preprocessing", counts.rows),
        *((f"  {outcome.word}", getattr(counts, outcome.word)) for outcome in Outcome),
    ]
    return [{"ledger": name, "rows": f"{rows:,}"} for name, rows in lines if rows is not None]


def _segments(segments: Mapping[str, int]) -> list[dict[str, Cell]]:
    lines = [("segments at all levels", sum(segments.values()))]
    lines += [(f"  {words}", segments[name]) for name, words in _SEGMENTS.items()]
    return [{"ledger": name, "segments": f"{count:,}"} for name, count in lines]


def _number(value: Json) -> int:
    return value if isinstance(value, int) else 0
