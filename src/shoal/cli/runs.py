"""``shoal runs``: what was done, what became of every row, and what went wrong."""

import click

from shoal.cli.invocation import Invocation
from shoal.cli.ledger_table import ledger_json, print_ledger, shards_text
from shoal.cli.output import Cell, console, fields, json_option, print_facts, print_json, print_listing, print_table
from shoal.jobs.states import RunState
from shoal.ledger.ledger import Ledger
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
    print_listing(map(fields, records), columns, as_json=as_json, empty="no runs")


@runs.command()
@click.argument("run")
@json_option
@click.pass_obj
def show(invocation: Invocation, run: str, as_json: bool) -> None:
    """Show a run: what it was told, its input, and its ledger."""
    with invocation.workspace() as workspace:
        ledger = workspace.ledger
        record, inputs, report = ledger.run(run), ledger.inputs(run), ledger.reconcile(run)
    if as_json:
        print_json({**fields(record), "inputs": inputs, "ledger": ledger_json(report)})
        return
    facts = fields(record)
    facts.pop("spec")
    print_facts({**facts, "shards": shards_text(report.totals)})
    console().print("\ntold", style="bold")
    print_facts({name: json_text(value) for name, value in record.spec.items() if value not in (None, [], {})})
    console().print("\nledger", style="bold")
    print_ledger(report)
    if inputs:
        console().print("\ninput", style="bold")
        print_table([fields(file) for file in inputs], ("path", "rows", "size_bytes", "sha256"))


@runs.command()
@click.argument("run")
@json_option
@click.pass_obj
def errors(invocation: Invocation, run: str, as_json: bool) -> None:
    """List what went wrong in a run: why it failed, and which shards did."""
    with invocation.workspace() as workspace:
        found = _errors(workspace.ledger, run)
    print_listing(found, ("where", "state", "attempts", "error"), as_json=as_json, empty=f"run {run} has no errors")


def _errors(ledger: Ledger, run: str) -> list[dict[str, Cell]]:
    record = ledger.run(run)
    found: list[dict[str, Cell]] = []
    if record.error:
        found.append({"where": "run", "state": record.state, "attempts": None, "error": record.error})
    for shard in ledger.shards(run):
        if shard.error:
            where = f"shard {shard.number}"
            found.append({"where": where, "state": shard.state, "attempts": shard.attempts, "error": shard.error})
    return found
