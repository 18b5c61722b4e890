"""``shoal runs``: what was done, what became of every row, and what went wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click
import polars as pl

from shoal.batch.leaving import DROPPED, LEFT_BY
from shoal.batch.publishing import Destination
from shoal.batch.spec import load_planned
from shoal.cli.invocation import Invocation
from shoal.cli.ledger_table import ledger_json, ledger_of, print_ledger, shards_text
from shoal.cli.output import (
    Cell,
    console,
    examples,
    fields,
    json_option,
    print_facts,
    print_json,
    print_listing,
    print_table,
    unless_filtered,
)
from shoal.jobs.states import RunState
from shoal.ledger.records import RunRecord, ShardRecord
from shoal.storage.columns import json_text


@click.group()
def runs() -> None:
    """List and inspect runs."""


@runs.command("list")
@click.option("--state", type=click.Choice([state.value for state in RunState]), help="Only runs that stand there.")
@click.option("--fleet", help="Only runs of this fleet.")
@click.option("--kind", help="Only runs of this kind, e.g. score or train.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest so many.")
@json_option
@click.pass_obj
def list_runs(
    invocation: Invocation, state: str | None, fleet: str | None, kind: str | None, limit: int, as_json: bool
) -> None:
    """List the newest runs, newest first."""
    with invocation.workspace() as workspace:
        records = workspace.ledger.runs(state=RunState(state) if state else None, fleet=fleet, kind=kind, limit=limit)
    columns = ("id", "kind", "fleet", "version", "state", "actor", "created_at", "ended_at", "error")
    empty = unless_filtered("no runs", state=state, fleet=fleet, kind=kind)
    print_listing(map(fields, records), columns, as_json=as_json, empty=empty)


@runs.command(epilog=examples("shoal runs show 20261121-044012-x7f3"))
@click.argument("run")
@json_option
@click.pass_obj
def show(invocation: Invocation, run: str, as_json: bool) -> None:
    """Show a run: what it was told, its input, and its ledger."""
    with invocation.workspace() as workspace:
        ledger = workspace.ledger
        record, inputs, report = ledger.run(run), ledger.inputs(run), ledger.reconcile(run)
        counted = ledger_of(record, report, ledger.shards(run))
    if as_json:
        print_json({**fields(record), "inputs": inputs, "ledger": ledger_json(counted)})
        return
    facts = fields(record)
    facts.pop("spec")
    print_facts({**facts, "shards": shards_text(report.totals)})
    console().print("\ntold", style="bold")
    print_facts({name: json_text(value) for name, value in record.spec.items() if value not in (None, [], {})})
    console().print("\nledger", style="bold")
    print_ledger(counted)
    if inputs:
        console().print("\ninput", style="bold")
        print_table([fields(file) for file in inputs], ("path", "rows", "size_bytes", "sha256"))


@runs.command(epilog=examples("shoal runs errors 20261121-044012-x7f3"))
@click.argument("run")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show so many rows.")
@json_option
@click.pass_obj
def errors(invocation: Invocation, run: str, limit: int, as_json: bool) -> None:
    """List what went wrong in a run.

    That is why it failed, which shards did, and the rows that could not be scored.
    """
    with invocation.workspace() as workspace:
        record, totals = workspace.ledger.run(run), workspace.ledger.totals(run)
        found = _errors(record, workspace.ledger.shards(run))
        home = workspace.settings.home
    # The outcomes of a training are of segments, and those that failed are no rows.
    bad = totals.counts.invalid + totals.counts.failed if record.kind != "train" else 0
    file = _file_of_bad_rows(record, home) if bad else None
    rows = pl.scan_ndjson(file).head(limit).collect() if file else pl.DataFrame()
    if as_json:
        print_json({"errors": found, "bad_rows": bad, "file": file and str(file), "rows": rows.to_dicts()})
        return
    if found or not bad:
        print_listing(found, ("where", "state", "attempts", "error"), as_json=False, empty=f"run {run} has no errors")
    if bad:
        where = f"listed in {file}" if file else "the output that listed them is not there"
        console().print(f"{bad:,} rows could not be scored; {where}")
    if rows.height:
        print_table(rows.to_dicts(), rows.columns)


@runs.command(epilog=examples("shoal runs models 20261121-044012-x7f3"))
@click.argument("run")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show so many models.")
@json_option
@click.pass_obj
def models(invocation: Invocation, run: str, limit: int, as_json: bool) -> None:
    """Show what became of the rows of each model.

    The line without a key is of the rows that met no model.
    """
    with invocation.workspace() as workspace:
        counted = workspace.model_outcomes(run)
    if as_json:
        print_json(counted.to_dicts())
        return
    # Where something is amiss is what people look for.
    worst = counted.sort(pl.sum_horizontal("invalid", "failed", "no_model"), descending=True, maintain_order=True)
    print_listing(worst.head(limit).to_dicts(), worst.columns, as_json=False, empty=f"run {run} has no models yet")
    if counted.height > limit:
        console(err=True).print(f"{counted.height - limit:,} more models: raise --limit or use --json")


def _errors(record: RunRecord, shards: Sequence[ShardRecord]) -> list[dict[str, Cell]]:
    found: list[dict[str, Cell]] = []
    if record.error:
        found.append({"where": "run", "state": record.state, "attempts": None, "error": record.error})
    for shard in shards:
        error = shard.error or _why_left(shard) or _failed_segments(record, shard)
        if error:
            where = f"shard {shard.number}"
            found.append({"where": where, "state": shard.state, "attempts": shard.attempts, "error": error})
    return found


def _why_left(shard: ShardRecord) -> str | None:
    """What the policy ``leave`` did with a shard: left it, or dropped what an earlier run had left."""
    if DROPPED in shard.source:
        run, number = cast("tuple[str, int]", shard.source[LEFT_BY])
        return f"dropped shard {number} that run {run} left: {shard.source[DROPPED]}"
    if shard.part and shard.part.get("left"):
        return f"its rows are left to the next run of the job: {shard.part.get('reason')}"
    return None


def _failed_segments(record: RunRecord, shard: ShardRecord) -> str | None:
    failed = shard.counts.failed if record.kind == "train" else 0
    return f"{failed:,} segments could not be trained; `shoal train --json` lists why" if failed else None


def _file_of_bad_rows(record: RunRecord, home: Path) -> Path | None:
    """Where a run that scored listed its bad rows, None where another run's output has taken that place."""
    if record.kind != "score":
        return None
    if record.state is not RunState.SUCCEEDED:
        kept = home / "runs" / record.id / "errors.jsonl"
        return kept if kept.is_file() else None
    destination = Destination(load_planned(record.spec), record.id, Path())
    return destination.errors if destination.is_published() and destination.errors.is_file() else None
