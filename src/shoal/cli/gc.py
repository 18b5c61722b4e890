"""``shoal gc``: free the room of what nothing refers to."""

import click

from shoal.cli.invocation import Invocation
from shoal.cli.output import console, json_option, print_json


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@json_option
@click.pass_obj
def gc(invocation: Invocation, dry_run: bool, as_json: bool) -> None:
    """Delete the files of snapshots that nothing refers to.

    Kept are the snapshots that an alias names or ever named, each fleet's newest, and those of runs that may still go
    on. What is deleted stays on record.
    """
    with invocation.workspace() as workspace:
        collected = workspace.gc(dry_run=dry_run)
    if as_json:
        files = [str(path) for path in collected.files]
        print_json({"files": files, "size_bytes": collected.size_bytes, "dry_run": dry_run})
        return
    verb = "would be deleted" if dry_run else "deleted"
    for path in collected.files:
        console().print(str(path))
    console().print(f"{len(collected.files)} files {verb}, {collected.size_bytes:,} bytes")
