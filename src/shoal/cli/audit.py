"""``shoal audit``: who changed what."""

import click

from shoal.cli.invocation import Invocation
from shoal.cli.output import console, examples, fields, json_option, print_json, print_listing, unless_filtered
from shoal.errors import InvalidInput


@click.command(epilog=examples("shoal audit", "shoal audit --object pumps@champion", "shoal audit --verify"))
@click.option("--object", "what", help="Only changes of this, e.g. pumps, pumps:3, pumps@champion or key/ID.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest so many.")
@click.option("--verify", is_flag=True, help="Instead, see whether entries were changed, removed or reordered.")
@click.option("--noted", metavar="DIGEST", help="With --verify: the newest of an earlier time, which has to be there.")
@json_option
@click.pass_obj
def audit(invocation: Invocation, what: str | None, limit: int, verify: bool, noted: str | None, as_json: bool) -> None:
    """List the newest changes of the registry, newest first."""
    if verify:
        _verify(invocation, noted, as_json=as_json)
        return
    if noted is not None:
        raise InvalidInput("--noted is for --verify; give that as well")
    with invocation.workspace() as workspace:
        entries = workspace.registry.audit(object=what, limit=limit)
    columns = ("number", "at", "actor", "action", "object", "after")
    empty = unless_filtered("nothing was changed yet", object=what)
    print_listing(map(fields, entries), columns, as_json=as_json, empty=empty)


def _verify(invocation: Invocation, noted: str | None, *, as_json: bool) -> None:
    """Say whether the audit is whole; exit code 1 where it is not."""
    with invocation.workspace() as workspace:
        check = workspace.registry.verify_audit(noted=noted)
    if as_json:
        print_json({**fields(check), "intact": check.intact})
    elif check.intact:
        console().print(f"{check.entries:,} entries, none changed or missing; the newest is {check.newest}")
    else:
        console().print("\n".join(check.faults))
    if not check.intact:
        raise click.exceptions.Exit(1)
