"""``shoal fleets``: which fleets there are, what is in them, and how they changed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import polars as pl

from shoal.cli.invocation import Invocation
from shoal.cli.model_address import model_address
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
from shoal.cli.served import follow, load, pin, serving, unload, unpin
from shoal.cli.statistics import stats
from shoal.errors import InvalidInput, NotFound
from shoal.registry.names import parse_reference
from shoal.registry.records import FleetRecord, ModelVersion, SnapshotRecord
from shoal.registry.registry import Registry
from shoal.storage.columns import json_text

if TYPE_CHECKING:
    from shoal.workspace import Workspace

_SHOWN = 50


@click.group()
def fleets() -> None:
    """List and inspect fleets and their models."""


@fleets.command("list")
@click.option("--tag", help="Only fleets with this tag.")
@click.option("--category", help="Only fleets of this category.")
@json_option
@click.pass_obj
def list_fleets(invocation: Invocation, tag: str | None, category: str | None, as_json: bool) -> None:
    """List the fleets."""
    with invocation.workspace() as workspace:
        records = workspace.registry.fleets(tag=tag, category=category)
    columns = ("name", "latest", "aliases", "category", "tags", "owner", "created_at", "description")
    empty = unless_filtered("no fleets; train or register one", tag=tag, category=category)
    print_listing(map(fields, records), columns, as_json=as_json, empty=empty)


@fleets.command(epilog=examples("shoal fleets show pumps", "shoal fleets show pumps:3"))
@click.argument("fleet")
@json_option
@click.pass_obj
def show(invocation: Invocation, fleet: str, as_json: bool) -> None:
    """Show a fleet, or one snapshot with its lineage.

    FLEET is a name for the fleet with its snapshots, name@alias or name:version for a snapshot.
    """
    with invocation.workspace() as workspace:
        if parse_reference(fleet).is_bare:
            _show_fleet(workspace.registry, fleet, as_json=as_json)
        else:
            _show_snapshot(workspace.registry, fleet, as_json=as_json)


@fleets.command(epilog=examples("shoal fleets models pumps@champion --limit 10"))
@click.argument("fleet")
@click.option("--limit", type=click.IntRange(min=1), help=f"Show so many.  [default: {_SHOWN}; with --json all]")
@json_option
@click.pass_obj
def models(invocation: Invocation, fleet: str, limit: int | None, as_json: bool) -> None:
    """List the models of a snapshot with their metrics.

    FLEET is a name, name@alias or name:version.
    """
    with invocation.workspace() as workspace:
        frame = workspace.fleet(fleet).models
    _print_frame(frame, limit=limit, as_json=as_json, empty=f"{fleet} has no models")


@fleets.command(
    epilog=examples(
        "shoal fleets history pumps",
        "shoal fleets history pumps --model device=d01,unit=1",
        "shoal fleets history pumps --model device=d01",
    )
)
@click.argument("name")
@click.option("--alias", help="Only moves of this alias.")
@click.option("--model", "key", metavar="NAME=VALUE,...", help="Instead, the history of the model of this key.")
@json_option
@click.pass_obj
def history(invocation: Invocation, name: str, alias: str | None, key: str | None, as_json: bool) -> None:
    """Show how aliases moved, or a model's history.

    Newest first. A model's history are the snapshots that brought a new one for its key. Its key is written with the
    fleet's key columns; those left out are of no matter to a fallback model.
    """
    with invocation.workspace() as workspace:
        if key is not None:
            _print_model_history(_model_history(workspace, name, key), as_json=as_json)
            return
        changes = workspace.registry.alias_history(name, alias)
    columns = ("at", "alias", "move", "before", "after", "actor", "reason")
    empty = f"nothing was promoted yet; see `shoal promote {name}:VERSION`"
    print_listing(map(fields, changes), columns, as_json=as_json, empty=empty)


@fleets.command(epilog=examples("shoal fleets diff pumps:3 pumps@champion"))
@click.argument("before")
@click.argument("after")
@click.option("--limit", type=click.IntRange(min=1), help=f"Show so many.  [default: {_SHOWN}; with --json all]")
@json_option
@click.pass_obj
def diff(invocation: Invocation, before: str, after: str, limit: int | None, as_json: bool) -> None:
    """List the models that differ between snapshots."""
    with invocation.workspace() as workspace:
        frame = workspace.fleet(before).diff(workspace.fleet(after))
    _print_frame(frame, limit=limit, as_json=as_json, empty=f"{before} and {after} have the same models")


@fleets.command(epilog=examples("shoal fleets describe pumps --owner ops --tag wet --tag north"))
@click.argument("name")
@click.option("--owner", help="Who looks after it.")
@click.option("--description", help="What it is for.")
@click.option("--category", help="Which category it is of; servers and stores may be for one.")
@click.option("--tag", "tags", multiple=True, help="In the place of its tags; may be given several times.")
@click.option("--no-tags", is_flag=True, help="Take its tags away.")
@json_option
@click.pass_obj
def describe(
    invocation: Invocation,
    name: str,
    owner: str | None,
    description: str | None,
    category: str | None,
    tags: tuple[str, ...],
    no_tags: bool,
    as_json: bool,
) -> None:
    """Say who owns a fleet, what it is for, its category and its tags.

    What is not given stays as it is.
    """
    if tags and no_tags:
        raise InvalidInput("--tag says which tags, --no-tags that there are none; leave one of them out")
    with invocation.workspace() as workspace:
        said = workspace.describe(
            name, owner=owner, description=description, category=category, tags=() if no_tags else tags or None
        )
    print_json(said) if as_json else print_facts(fields(said))


for _command in (serving, load, unload, pin, unpin, follow, stats):
    fleets.add_command(_command)


def _show_fleet(registry: Registry, name: str, *, as_json: bool) -> None:
    fleet, snapshots = registry.fleet(name), registry.snapshots(name)
    if as_json:
        print_json({**fields(fleet), "snapshots": snapshots})
        return
    print_facts(fields(fleet))
    if snapshots:
        console().print()
        rows = [{**fields(snapshot), "aliases": _names_of(fleet, snapshot)} for snapshot in snapshots]
        print_table(
            rows, ("version", "aliases", "model_count", "new_models", "created_at", "created_by", "run", "note")
        )


def _names_of(fleet: FleetRecord, snapshot: SnapshotRecord) -> Cell:
    return [alias for alias, version in fleet.aliases.items() if version == snapshot.version]


def _show_snapshot(registry: Registry, reference: str, *, as_json: bool) -> None:
    snapshot = registry.resolve(reference)
    lineage = registry.lineage(snapshot.fleet, snapshot.version)
    if as_json:
        print_json({**fields(snapshot), "lineage": lineage})
        return
    facts = fields(snapshot) | fields(lineage)
    facts.pop("inputs")
    facts.pop("parameters")
    print_facts(facts)
    if lineage.parameters:
        console().print("\nparameters", style="bold")
        print_facts(
            {name: json_text(value) for name, value in lineage.parameters.items() if value not in (None, [], {})}
        )
    if lineage.inputs:
        console().print("\ninput", style="bold")
        print_table([fields(file) for file in lineage.inputs], ("path", "rows", "size_bytes", "sha256"))


def _model_history(workspace: "Workspace", name: str, typed: str) -> list[ModelVersion]:
    newest = workspace.registry.snapshots(name)[:1]
    named = "=" in typed and newest
    key = model_address(workspace.open_snapshot(newest[0]).keys, typed) if named else typed
    try:
        return workspace.registry.model_history(name, key)
    except NotFound as error:
        if not newest:
            raise
        raise NotFound(
            f"fleet {name!r} never had a model of {typed!r}; write its key as --model NAME=VALUE,... and leave out the "
            f"columns that a fallback model does not look at; `shoal fleets models {newest[0].reference}` lists keys"
        ) from error


def _print_model_history(history: Sequence[ModelVersion], *, as_json: bool) -> None:
    if as_json:
        print_json(history)
        return
    rows = [{**fields(entry.model), **fields(entry), "level": "+".join(entry.model.level)} for entry in history]
    columns = ("version", "level", "family", "rows", "trained_at", "metrics", "created_by", "run")
    print_table(rows, columns)


def _print_frame(frame: pl.DataFrame, *, limit: int | None, as_json: bool, empty: str) -> None:
    """Print rows of a frame; a table stops after some and says how many more there are."""
    shown = frame.head(limit or (frame.height if as_json else _SHOWN))
    columns: Sequence[str] = [name for name in shown.columns if as_json or not _blank(shown[name])]
    print_listing(shown.select(columns).to_dicts(), columns, as_json=as_json, empty=empty)
    if not as_json and shown.height < frame.height:
        console(err=True).print(f"{frame.height - shown.height:,} more; show them with --limit {frame.height}")


def _blank(column: pl.Series) -> bool:
    return column.null_count() == column.len()
