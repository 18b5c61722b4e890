"""``shoal predictions``: requests that nobody waited for, and what became of them."""

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import click
import polars as pl

from shoal.cli.invocation import Invocation
from shoal.cli.output import (
    Cell,
    console,
    examples,
    json_option,
    print_facts,
    print_json,
    print_listing,
    print_table,
    unless_filtered,
)
from shoal.cli.row import typed_row
from shoal.cli.times import Moment
from shoal.errors import InvalidInput
from shoal.jobs.states import PredictionState
from shoal.ledger import PredictionKind, PredictionRecord
from shoal.registry.names import parse_reference
from shoal.scoring.columns import to_numbers
from shoal.serving.documents import prediction_document, response_rows
from shoal.serving.messages import InferenceResponse
from shoal.serving.payloads import decode_response
from shoal.table.keys import coerce
from shoal.types import FeatureKind

if TYPE_CHECKING:
    from shoal.fleet import Fleet
    from shoal.workspace import Workspace

_SHOWN = 50
_COLUMNS = ("id", "kind", "state", "fleet", "principal", "attempts", "accepted_at", "settled_at", "sink", "error")


@click.group()
def predictions() -> None:
    """Ask for predictions without waiting; list, inspect, replay and forget them."""


@predictions.command("list", epilog=examples("shoal predictions list --state failed"))
@click.option("--state", type=click.Choice([state.value for state in PredictionState]), help="Only those there.")
@click.option("--kind", type=click.Choice([kind.value for kind in PredictionKind]),
              help="Only those asked for without waiting (deferred), or durable results (stored).")  # fmt: skip
@click.option("--fleet", help="Only predictions of this fleet.")
@click.option("--principal", help="Only what was asked with API keys of this name.")
@click.option("--since", type=Moment(), help="Only what was accepted then or later; UTC where no zone is given.")
@click.option("--until", type=Moment(), help="Only what was accepted before.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest so many.")
@json_option
@click.pass_obj
def list_predictions(
    invocation: Invocation,
    state: str | None,
    kind: str | None,
    fleet: str | None,
    principal: str | None,
    since: dt.datetime | None,
    until: dt.datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the newest predictions, newest first."""
    with invocation.workspace() as workspace:
        records = workspace.predictions.listed(
            state=PredictionState(state) if state else None,
            kind=PredictionKind(kind) if kind else None,
            fleet=fleet,
            principal=principal,
            since=since,
            until=until,
            limit=limit,
        )
    empty = unless_filtered(
        "no predictions", state=state, kind=kind, fleet=fleet, principal=principal, since=since, until=until
    )
    print_listing(map(_shown, records), _COLUMNS, as_json=as_json, empty=empty)


@predictions.command(epilog=examples("shoal predictions request order-17"))
@click.argument("request_id", metavar="ID")
@click.option("--principal", help="Only what was asked with API keys of this name.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="The newest so many.")
@json_option
@click.pass_obj
def request(invocation: Invocation, request_id: str, principal: str | None, limit: int, as_json: bool) -> None:
    """List the durable results of a request, newest first.

    ID is that of the request, which its answer told; --json has what was answered.
    """
    with invocation.workspace() as workspace:
        records = workspace.predictions.of_request(request_id, principal=principal, limit=limit)
    empty = f"no durable result of a request {request_id}"
    print_listing(map(_shown, records), _COLUMNS, as_json=as_json, empty=empty)


@predictions.command(epilog=examples("shoal predictions purge pumps --before 2026-01-31"))
@click.argument("fleet")
@click.option("--before", type=Moment(), required=True, help="When it was accepted; UTC where no zone is given.")
@json_option
@click.pass_obj
def purge(invocation: Invocation, fleet: str, before: dt.datetime, as_json: bool) -> None:
    """Forget the durable results of a fleet that are older.

    What is on its way to a sink stays.
    """
    with invocation.workspace() as workspace:
        count = workspace.predictions.purge(fleet, before=before)
    said = "1 result is forgotten" if count == 1 else f"{count:,} results are forgotten"
    print_json({"purged": count}) if as_json else console().print(said)


@predictions.command(
    epilog=examples(
        "shoal predictions submit pumps device=d7 temp=61.5",
        "shoal predictions submit pumps device=d7 temp=61.5 --ordering-key d7",
    )
)
@click.argument("fleet")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--row", help="The row as a JSON object, instead of NAME=VALUE.")
@click.option("--idempotency-key", help="The same request with the same key is the same prediction.")
@click.option("--ordering-key", help="Predictions with the same key are made in the order of their acceptance.")
@click.option("--timeout", "timeout_s", type=float, help="Seconds after which nobody wants it any more.")
@click.option("--sink", help="Name of a sink that the result goes to as well.")
@click.option("--model-level", is_flag=True, help="The answer says which level answered as well.")
@click.option("--snapshot", is_flag=True, help="The answer's rows say the snapshot as well.")
@json_option
@click.pass_obj
def submit(
    invocation: Invocation,
    fleet: str,
    values: tuple[str, ...],
    row: str | None,
    idempotency_key: str | None,
    ordering_key: str | None,
    timeout_s: float | None,
    sink: str | None,
    model_level: bool,
    snapshot: bool,
    as_json: bool,
) -> None:
    """Ask for a prediction of one row without waiting.

    A server makes it, now or when there is one. FLEET is a name, name@alias or name:version. The answer has the row's
    outcome, and the reason where there is one.
    """
    with invocation.workspace() as workspace:
        made = workspace.submit(
            fleet,
            _frame(typed_row(values, row), _asked(workspace, fleet)),
            outcome=True,
            reason=True,
            model_level=model_level,
            snapshot=snapshot,
            idempotency_key=idempotency_key,
            ordering_key=ordering_key,
            timeout_s=timeout_s,
            sink=sink,
        )
    print_json({"id": made}) if as_json else console().print(made)


def _asked(workspace: "Workspace", reference: str) -> "Fleet":
    """The fleet whose columns the row has: by a bare name, what is served under it, whichever alias that is."""
    parsed = parse_reference(reference)
    snapshot = workspace.registry.desired(parsed.fleet).snapshot if parsed.is_bare else None
    return workspace.fleet(reference) if snapshot is None else workspace.open_snapshot(snapshot)


@predictions.command(
    epilog=examples(
        "shoal predictions show 17-8681f9b7228ad952", "shoal predictions show 17-8681f9b7228ad952 --timeout 30"
    )
)
@click.argument("prediction", metavar="ID")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=0.0, help="Wait so many seconds for it.")
@json_option
@click.pass_obj
def show(invocation: Invocation, prediction: str, timeout_s: float, as_json: bool) -> None:
    """Show a prediction: where it stands, and its response."""
    with invocation.workspace() as workspace:
        record = workspace.predictions.wait(prediction, timeout_s=timeout_s)
    shown = _shown(record)
    if as_json:
        print_json(shown)
        return
    shown.pop("response", None)
    print_facts(shown)
    if record.answer is not None:
        _print_response(decode_response(record.answer))


@predictions.command(
    epilog=examples("shoal predictions replay 17-8681f9b7228ad952", "shoal predictions replay --failed --fleet pumps")
)
@click.argument("prediction", metavar="[ID]", required=False)
@click.option("--failed", is_flag=True, help="All that failed, instead of one.")
@click.option("--fleet", help="With --failed: only those of this fleet.")
@json_option
@click.pass_obj
def replay(invocation: Invocation, prediction: str | None, failed: bool, fleet: str | None, as_json: bool) -> None:
    """Try a prediction that failed or expired again.

    It goes back to its place, without a deadline.
    """
    if (prediction is None) != failed or (fleet is not None and not failed):
        raise InvalidInput("give either the id of a prediction, or --failed, which may have a --fleet")
    with invocation.workspace() as workspace:
        if prediction is None:
            count = workspace.predictions.replay_failed(fleet=fleet)
            said = "1 prediction waits again" if count == 1 else f"{count} predictions wait again"
            print_json({"waiting": count}) if as_json else console().print(said)
            return
        record = workspace.predictions.replay(prediction)
    print_json(_shown(record)) if as_json else console().print(f"{record.id} waits again")


def _frame(given: Mapping[str, object], fleet: "Fleet") -> pl.DataFrame:
    """The row with values of the fleet's types; columns that are not its own may be what a lookup goes by."""
    keys = {column.name: column for column in fleet.keys}
    numbers = {feature.name for feature in fleet.features if feature.kind is FeatureKind.NUMERIC}
    columns = []
    for name, value in given.items():
        column = pl.Series(name, [value])
        if name in keys:
            column, _ = coerce(column, keys[name])
        elif name in numbers:
            column = pl.Series(name, to_numbers(column)[0]).fill_nan(None)
        if value is not None and column[0] is None:
            raise InvalidInput(f"{name} is {value!r}, which is not of its column's type")
        columns.append(column)
    return pl.DataFrame(columns)


def _print_response(response: InferenceResponse) -> None:
    """Print what was answered as a table of rows; JSON has it as the protocol does."""
    rows = response_rows(response)
    console().print(f"\n{response.model_name}, snapshot {response.model_version}", style="bold")
    names = [tensor.name for tensor in response.outputs]
    print_table(
        cast("list[dict[str, Cell]]", rows[:_SHOWN]), [n for n in names if any(row[n] is not None for row in rows)]
    )
    if len(rows) > _SHOWN:
        console(err=True).print(f"{len(rows) - _SHOWN:,} more rows; show them with --json")


def _shown(record: PredictionRecord) -> dict[str, Cell]:
    return cast("dict[str, Cell]", prediction_document(record))
