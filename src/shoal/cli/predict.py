"""``shoal predict``: one row, answered at once."""

import json

import click
import polars as pl

from shoal.cli.invocation import Invocation
from shoal.cli.output import Cell, json_option, print_facts, print_json
from shoal.errors import InvalidInput
from shoal.fleet import Fleet


@click.command()
@click.argument("fleet")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--row", help="The row as a JSON object, instead of NAME=VALUE.")
@json_option
@click.pass_obj
def predict(invocation: Invocation, fleet: str, values: tuple[str, ...], row: str | None, as_json: bool) -> None:
    r"""Predict one row with the model of its segment.

    FLEET is a name, name@alias or name:version. A feature that is not given is missing.

    \b
    shoal predict flights@champion origin=JFK dest=LAX distance=2475 hour=9
    """
    with invocation.workspace() as workspace:
        opened = workspace.fleet(fleet)
    answer = _answer(opened, _row(values, row, opened))
    if as_json:
        print_json(answer)
    else:
        print_facts(answer)


def _row(values: tuple[str, ...], row: str | None, fleet: Fleet) -> dict[str, object]:
    if row is not None:
        try:
            given = json.loads(row)
        except ValueError as error:
            raise InvalidInput(f"--row is no JSON ({error}); quote it for your shell") from None
        if not isinstance(given, dict):
            raise InvalidInput("--row must be a JSON object of column names and values")
    else:
        given = dict(_pair(value) for value in values)
    known = [column.name for column in fleet.keys] + [feature.name for feature in fleet.features]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InvalidInput(f"the fleet has no column {unknown}; it takes {known}")
    return {name: given.get(name) for name in known}


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise InvalidInput(f"{text!r} is not NAME=VALUE")
    return name, value


def _answer(fleet: Fleet, row: dict[str, object]) -> dict[str, Cell]:
    frame = pl.DataFrame({name: [value] for name, value in row.items()})
    scored = fleet.score(frame)
    columns = [scored.outcome_column, scored.reason_texts(), scored.level_column]
    answer = scored.frame.with_columns(columns).row(0, named=True)
    probability = answer.pop("probability", None)
    if probability is not None:
        answer["probability"] = dict(zip(map(str, fleet.labels), probability, strict=True))
    return {**answer, "snapshot": fleet.version}
