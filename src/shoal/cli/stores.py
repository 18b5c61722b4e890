"""``shoal stores``: categories whose snapshots are kept in a folder of their own."""

from pathlib import Path

import click

from shoal.cli.invocation import Invocation
from shoal.cli.output import console, examples, fields, json_option, print_json, print_listing


@click.group()
def stores() -> None:
    """Keep the snapshots of a category in a folder of their own."""


@stores.command("list")
@json_option
@click.pass_obj
def list_stores(invocation: Invocation, as_json: bool) -> None:
    """List the categories that have a store of their own."""
    with invocation.workspace() as workspace:
        found = workspace.registry.stores()
    empty = "no category has a store of its own; all snapshots are in SHOAL_HOME"
    print_listing([fields(one) for one in found], ("category", "folder", "changed_at"), as_json=as_json, empty=empty)


@stores.command("set", epilog=examples("shoal stores set pumps /mnt/pumps"))
@click.argument("category")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@json_option
@click.pass_obj
def set_store(invocation: Invocation, category: str, folder: Path, as_json: bool) -> None:
    """Put the next snapshots of a category's fleets into a folder.

    Those that exist stay where they are, and are found there.
    """
    with invocation.workspace() as workspace:
        workspace.set_store(category, folder)
        (made,) = [one for one in workspace.registry.stores() if one.category == category]
    print_json(fields(made)) if as_json else console().print(f"New snapshots of {category} go to {folder.absolute()}")


@stores.command(epilog=examples("shoal stores remove pumps"))
@click.argument("category")
@click.pass_obj
def remove(invocation: Invocation, category: str) -> None:
    """Give up the store of a category.

    Its next snapshots go into SHOAL_HOME again. Refused while the store holds snapshots in use.
    """
    with invocation.workspace() as workspace:
        workspace.set_store(category, None)
    console().print(f"New snapshots of {category} go to SHOAL_HOME")
