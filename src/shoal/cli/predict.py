"""``shoal predict``: one row, answered at once."""

from collections.abc import Mapping

import click
import polars as pl

from shoal.cli.invocation import Invocation
from shoal.cli.output import Cell, examples, json_option, print_facts, print_json
from shoal.cli.row import typed_row
from shoal.errors import InvalidInput
from shoal.fleet import Fleet

_EXAMPLES = examples(
    "shoal predict flights@champion origin=JFK dest=LAX distance=2475 hour=9",
    """shoal predict flights:3 --row '{"origin": "JFK", "dest": "LAX", "hour": 9}' """.rstrip(),
)


@click.command(epilog=_EXAMPLES)
@click.argument("fleet")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--row", help="The row as a JSON object, instead of NAME=VALUE.")
@json_option
@click.pass_obj
def predict(invocation: Invocation, fleet: str, values: tuple[str, ...], row: str | None, as_json: bool) -> None:
    """Predict one row with the model of its segment.

    FLEET is a name, name@alias or name:version. A column that is not given is missing.
    """
    with invocation.workspace() as workspace:
        opened = workspace.fleet(fleet)
    given = typed_row(values, row)
    complete = _row(given, opened)
    _mention_missing_keys(given, opened)
    answer = _answer(opened, complete)
    if as_json:
        print_json(answer)
    else:
        print_facts(answer)


def _mention_missing_keys(given: Mapping[str, object], fleet: Fleet) -> None:
    """A key may be missing, and a coarser model answers then; left out by mistake it looks like a bad model."""
    missing = [column.name for column in fleet.keys if column.name not in given]
    if missing:
        pairs = " ".join(f"{name}=VALUE" for name in missing)
        click.echo(f"warning: not given and taken as missing: key {', '.join(missing)}; give {pairs}", err=True)


def _row(given: Mapping[str, object], fleet: Fleet) -> dict[str, object]:
    known = [column.name for column in fleet.keys] + [feature.name for feature in fleet.features]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InvalidInput(f"the fleet has no column {unknown}; it takes {known}")
    return {name: given.get(name) for name in known}


def _answer(fleet: Fleet, row: dict[str, object]) -> dict[str, Cell]:
    frame = pl.DataFrame({name: [value] for name, value in row.items()})
    scored = fleet.score(frame)
    columns = [scored.outcome_column, scored.reason_texts(), scored.level_column]
    answer = scored.frame.with_columns(columns).row(0, named=True)
    probability = answer.pop("probability", None)
    if probability is not None:
        answer["probability"] = dict(zip(map(str, fleet.labels), probability, strict=True))
    return {**answer, "snapshot": fleet.version}
