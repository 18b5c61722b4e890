"""``shoal promote`` and ``shoal rollback``: which snapshot is in use."""

import click

from shoal.cli.invocation import Invocation
from shoal.cli.output import console, examples, json_option, print_json
from shoal.errors import InvalidInput
from shoal.registry.names import CHAMPION, parse_reference
from shoal.registry.records import AliasChange

_REASON = "Why; kept in the history."
_EXPECTED = "Refuse when the alias names another version by now (0: none)."


@click.command(epilog=examples("shoal promote pumps:3", "shoal promote pumps:3 --alias canary --reason 'a try'"))
@click.argument("snapshot")
@click.argument("version", required=False, type=click.IntRange(min=1))
@click.option("--alias", default=CHAMPION, show_default=True, help="The alias to move.")
@click.option("--expected", type=click.IntRange(min=0), help=_EXPECTED)
@click.option("--reason", default="", help=_REASON)
@json_option
@click.pass_obj
def promote(
    invocation: Invocation,
    snapshot: str,
    version: int | None,
    alias: str,
    expected: int | None,
    reason: str,
    as_json: bool,
) -> None:
    """Make an alias name a snapshot, at once and for everybody.

    SNAPSHOT is name:version, or a name followed by VERSION, or name@alias for what another alias names.
    """
    bare = parse_reference(snapshot).is_bare
    if bare and version is None:
        raise InvalidInput(f"say which snapshot, e.g. {snapshot}:1; `shoal fleets show {snapshot}` lists them")
    if not bare and version is not None:
        raise InvalidInput(f"{snapshot} names a snapshot already; leave {version} out")
    with invocation.workspace() as workspace:
        found = workspace.registry.resolve(f"{snapshot}:{version}" if bare else snapshot)
        change = workspace.promote(found.fleet, found.version, alias=alias, expected=expected, reason=reason)
    _print(change, as_json=as_json)


@click.command(epilog=examples("shoal rollback pumps", "shoal rollback pumps@canary"))
@click.argument("fleet")
@click.option("--expected", type=click.IntRange(min=1), help=_EXPECTED)
@click.option("--reason", default="", help=_REASON)
@json_option
@click.pass_obj
def rollback(invocation: Invocation, fleet: str, expected: int | None, reason: str, as_json: bool) -> None:
    """Make an alias name the snapshot it named before; again goes further back.

    FLEET is a name, for its champion, or name@alias.
    """
    reference = parse_reference(fleet)
    if reference.alias is None:
        raise InvalidInput(
            f"an alias is rolled back, not a version; write {reference.fleet} or {reference.fleet}@ALIAS"
        )
    with invocation.workspace() as workspace:
        change = workspace.rollback(reference.fleet, alias=reference.alias, expected=expected, reason=reason)
    _print(change, as_json=as_json)


def _print(change: AliasChange, *, as_json: bool) -> None:
    if as_json:
        print_json(change)
        return
    before = f"was {change.before}" if change.before is not None else "is new"
    console().print(f"{change.fleet}@{change.alias} is {change.fleet}:{change.after} now; it {before}")
