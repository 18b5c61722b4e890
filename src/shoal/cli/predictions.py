"""``shoal predictions``: requests that nobody waited for, and what became of them."""

from typing import cast

import click

from shoal.cli.invocation import Invocation
from shoal.cli.output import Cell, console, examples, json_option, print_facts, print_json, print_listing
from shoal.errors import InvalidInput
from shoal.jobs.states import PredictionState
from shoal.ledger import PredictionRecord
from shoal.serving.documents import prediction_document


@click.group()
def predictions() -> None:
    """List, inspect and replay predictions that were asked for without waiting."""


@predictions.command("list", epilog=examples("shoal predictions list --state failed"))
@click.option("--state", type=click.Choice([state.value for state in PredictionState]), help="Only those there.")
@click.option("--fleet", help="Only predictions of this fleet.")
@click.option("--principal", help="Only what was asked with API keys of this name.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest so many.")
@json_option
@click.pass_obj
def list_predictions(
    invocation: Invocation,
    state: str | None,
    fleet: str | None,
    principal: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the newest predictions, newest first."""
    with invocation.workspace() as workspace:
        records = workspace.predictions.listed(
            state=PredictionState(state) if state else None, fleet=fleet, principal=principal, limit=limit
        )
    columns = ("id", "state", "fleet", "principal", "attempts", "accepted_at", "settled_at", "sink", "error")
    print_listing(map(_shown, records), columns, as_json=as_json, empty="no predictions")


@predictions.command(epilog=examples("shoal predictions show 17-8681f9b7228ad952"))
@click.argument("prediction", metavar="ID")
@json_option
@click.pass_obj
def show(invocation: Invocation, prediction: str, as_json: bool) -> None:
    """Show a prediction: where it stands, and its response."""
    with invocation.workspace() as workspace:
        record = workspace.predictions.one(prediction)
    shown = _shown(record)
    if as_json:
        print_json(shown)
        return
    response = shown.pop("response", None)
    print_facts(shown)
    if response is not None:
        console().print("\nresponse", style="bold")
        print_json(response)


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
            print_json({"waiting": count}) if as_json else console().print(f"{count} predictions wait again")
            return
        record = workspace.predictions.replay(prediction)
    print_json(_shown(record)) if as_json else console().print(f"{record.id} waits again")


def _shown(record: PredictionRecord) -> dict[str, Cell]:
    return cast("dict[str, Cell]", prediction_document(record))
