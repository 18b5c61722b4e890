"""``shoal audit``: who changed what."""

import click

from shoal.cli.invocation import Invocation
from shoal.cli.output import examples, fields, json_option, print_listing


@click.command(epilog=examples("shoal audit", "shoal audit --object pumps@champion"))
@click.option("--object", "what", help="Only changes of this, e.g. pumps, pumps:3, pumps@champion or key/ID.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest so many.")
@json_option
@click.pass_obj
def audit(invocation: Invocation, what: str | None, limit: int, as_json: bool) -> None:
    """List the newest changes of the registry, newest first."""
    with invocation.workspace() as workspace:
        entries = workspace.registry.audit(object=what, limit=limit)
    columns = ("number", "at", "actor", "action", "object", "after")
    print_listing(map(fields, entries), columns, as_json=as_json, empty="nothing was changed yet")
