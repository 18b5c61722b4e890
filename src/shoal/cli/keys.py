"""``shoal keys``: API keys of servers."""

import datetime as dt

import click

from shoal.cli.invocation import Invocation
from shoal.cli.output import Cell, console, examples, fields, json_option, print_json, print_listing
from shoal.cli.times import Duration
from shoal.security.api_keys import ApiKeyRecord, IssuedKey
from shoal.security.permissions import Role

_ROLES = "predictor asks models; reader looks; operator does both and promotes, loads and unloads; admin does all"


_expires = click.option(
    "--expires", metavar="TIME", type=Duration(), help="Take it for so long, e.g. 90d.  [default: for ever]"
)


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command(epilog=examples("shoal keys create shop --role predictor --expires 90d"))
@click.argument("name")
@click.option(
    "--role", type=click.Choice([role.value for role in Role]), required=True, help=f"What it is for: {_ROLES}."
)
@_expires
@json_option
@click.pass_obj
def create(invocation: Invocation, name: str, role: str, expires: float | None, as_json: bool) -> None:
    """Make an API key and print it, this once.

    NAME says whose it is; logs and the audit show it. Servers take the key within a second.
    """
    with invocation.workspace() as workspace:
        made = workspace.create_key(name, Role(role), expires_s=expires)
    _print_made(made, as_json=as_json)


@keys.command("list")
@json_option
@click.pass_obj
def list_keys(invocation: Invocation, as_json: bool) -> None:
    """List the API keys, newest first.

    Not the keys themselves: these are kept nowhere.
    """
    with invocation.workspace() as workspace:
        records = workspace.registry.keys()
    columns = ("id", "name", "role", "state", "created_at", "created_by", "expires_at", "revoked_at")
    empty = "no API keys; `shoal keys create NAME --role predictor` makes one"
    print_listing(map(_shown, records), columns, as_json=as_json, empty=empty)


@keys.command(epilog=examples("shoal keys revoke 7fk2mp9qx3ab"))
@click.argument("key_id", metavar="ID")
@json_option
@click.pass_obj
def revoke(invocation: Invocation, key_id: str, as_json: bool) -> None:
    """Take an API key no more; servers follow within a second."""
    with invocation.workspace() as workspace:
        record = workspace.registry.revoke_key(key_id, actor=workspace.settings.actor)
    if as_json:
        print_json(_shown(record))
        return
    console().print(f"the key {record.id} of {record.name} is revoked")


@keys.command(epilog=examples("shoal keys rotate 7fk2mp9qx3ab --overlap 12h"))
@click.argument("key_id", metavar="ID")
@click.option(
    "--overlap",
    metavar="TIME",
    type=Duration(),
    default="1d",
    show_default=True,
    help="Take the old key for so long yet.",
)
@_expires
@json_option
@click.pass_obj
def rotate(invocation: Invocation, key_id: str, overlap: float, expires: float | None, as_json: bool) -> None:
    """Make a key of the same name and role, and let the old one expire."""
    with invocation.workspace() as workspace:
        made = workspace.rotate_key(key_id, overlap_s=overlap, expires_s=expires)
    _print_made(made, as_json=as_json)


def _print_made(made: IssuedKey, *, as_json: bool) -> None:
    if as_json:
        print_json({**_shown(made.record), "key": made.text})
        return
    click.echo(made.text)
    click.echo("Keep it: it is not shown again.", err=True)


def _shown(record: ApiKeyRecord) -> dict[str, Cell]:
    """A record as people may see it: without the hash."""
    shown = fields(record)
    del shown["hash"]
    now = dt.datetime.now(dt.UTC)
    state = "active" if record.is_active(now) else "revoked" if record.revoked_at else "expired"
    return {**shown, "state": state}
