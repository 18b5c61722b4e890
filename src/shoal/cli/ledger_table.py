"""The ledger of a run, as people read it."""

from shoal.cli.output import Cell, console, print_table
from shoal.ledger.records import Reconciliation, RunTotals
from shoal.types import Outcome


def print_ledger(report: Reconciliation) -> None:
    """Print the rows read, what became of each, and whether it all adds up."""
    print_table(_rows(report), ("ledger", "rows"))
    out = console()
    for difference in report.differences:
        out.print(f"does not reconcile: {difference}", style="bold red")
    if report.balanced:
        out.print("reconciles: every row met exactly one outcome", style="green")


def ledger_json(report: Reconciliation) -> dict[str, object]:
    """The ledger as a JSON object."""
    return {
        "input_rows": report.input_rows,
        "source_rows": report.totals.source_rows,
        **{name: getattr(report.totals.counts, name) for name in ("rows", *(o.word for o in Outcome))},
        "shards": dict(report.totals.shards),
        "reconciles": report.balanced,
        "differences": report.differences,
    }


def shards_text(totals: RunTotals) -> str:
    """How many shards stand where, e.g. ``12 done, 1 failed``."""
    return ", ".join(f"{count} {state}" for state, count in totals.shards.items() if count) or "none"


def _rows(report: Reconciliation) -> list[dict[str, Cell]]:
    counts = report.totals.counts
    lines: list[tuple[str, int | None]] = [
        ("in the input files", report.input_rows),
        ("read", report.totals.source_rows),
        ("after preprocessing", counts.rows),
        *((f"  {outcome.word}", getattr(counts, outcome.word)) for outcome in Outcome),
    ]
    return [{"ledger": name, "rows": f"{rows:,}"} for name, rows in lines if rows is not None]
