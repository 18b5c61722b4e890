"""``shoal fleets serving``, ``load``, ``pin`` and so on: what servers are to do with a fleet."""

from pathlib import Path
from typing import cast

import click
import msgspec

from shoal.cli.invocation import Invocation
from shoal.cli.output import Cell, console, examples, fields, json_option, print_facts, print_json, print_listing
from shoal.errors import InvalidInput
from shoal.registry import Desired, parse_reference
from shoal.requests.spec import ServingSpec
from shoal.storage.columns import json_text
from shoal.types import Json

_COLUMNS = ("fleet", "loaded", "alias", "pinned", "version", "spec", "changed_at")


@click.command(
    epilog=examples(
        "shoal fleets serving", "shoal fleets serving pumps", "shoal fleets serving pumps --file serving.yaml"
    )
)
@click.argument("name", required=False)
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Serve it with what this YAML file says from now on.",
)
@json_option
@click.pass_obj
def serving(invocation: Invocation, name: str | None, path: Path | None, as_json: bool) -> None:
    """Show or set what a fleet is served with.

    Checks, rules, lookup, caches and log: all that stands between a request and its score. Without NAME: what servers
    are told about each fleet.
    """
    if name is None:
        _list(invocation, path, as_json=as_json)
        return
    with invocation.workspace() as workspace:
        if path is not None:
            workspace.set_serving(name, path)
        desired, spec = workspace.registry.desired(name), workspace.serving(name)
    if as_json:
        print_json(fields(desired))
        return
    told = "none yet" if desired.snapshot is None else desired.snapshot.version
    print_facts({"alias": desired.alias, "pinned": desired.pinned, "loaded": desired.loaded, "snapshot": told})
    said = _said(spec)
    if said:
        console().print()
        print_facts({field: value if isinstance(value, str) else json_text(value) for field, value in said.items()})
    else:
        console(err=True).print(f"{name} is served with its models alone; set more with --file")


@click.command(epilog=examples("shoal fleets load pumps"))
@click.argument("name")
@json_option
@click.pass_obj
def load(invocation: Invocation, name: str, as_json: bool) -> None:
    """Have a fleet served, by every server and after a restart."""
    with invocation.workspace() as workspace:
        desired = workspace.load(name)
    _print(desired, f"{name} is served", as_json=as_json)


@click.command(epilog=examples("shoal fleets unload pumps"))
@click.argument("name")
@json_option
@click.pass_obj
def unload(invocation: Invocation, name: str, as_json: bool) -> None:
    """Have a fleet served no more."""
    with invocation.workspace() as workspace:
        desired = workspace.unload(name)
    _print(desired, f"{name} is served no more", as_json=as_json)


@click.command(epilog=examples("shoal fleets pin pumps:3"))
@click.argument("snapshot")
@json_option
@click.pass_obj
def pin(invocation: Invocation, snapshot: str, as_json: bool) -> None:
    """Have a snapshot served wherever the alias moves.

    It is kept from garbage collection meanwhile.
    """
    parsed = parse_reference(snapshot)
    if parsed.version is None:
        raise InvalidInput(f"{snapshot!r} names no version; write NAME:VERSION, or let NAME follow an alias")
    with invocation.workspace() as workspace:
        desired = workspace.pin(parsed.fleet, parsed.version)
    _print(desired, f"{parsed.fleet} stays at version {parsed.version}", as_json=as_json)


@click.command(epilog=examples("shoal fleets unpin pumps"))
@click.argument("name")
@json_option
@click.pass_obj
def unpin(invocation: Invocation, name: str, as_json: bool) -> None:
    """Let a pinned snapshot go; what the alias names is served again."""
    with invocation.workspace() as workspace:
        desired = workspace.pin(name, None)
    _print(desired, f"{name} follows {desired.alias} again", as_json=as_json)


@click.command(epilog=examples("shoal fleets follow pumps@canary"))
@click.argument("reference", metavar="NAME@ALIAS")
@json_option
@click.pass_obj
def follow(invocation: Invocation, reference: str, as_json: bool) -> None:
    """Have what an alias names served instead of the champion."""
    parsed = parse_reference(reference)
    if parsed.alias is None:
        raise InvalidInput(f"{reference!r} names no alias; write NAME@ALIAS, or pin the snapshot")
    with invocation.workspace() as workspace:
        desired = workspace.follow(parsed.fleet, parsed.alias)
    _print(desired, f"{parsed.fleet} follows {parsed.alias}", as_json=as_json)


def _list(invocation: Invocation, path: Path | None, *, as_json: bool) -> None:
    if path is not None:
        raise InvalidInput("--file is about one fleet; give its NAME as well")
    with invocation.workspace() as workspace:
        desired = workspace.registry.serving()
    rows = [fields(one) if as_json else _row(one) for one in desired]
    print_listing(rows, _COLUMNS, as_json=as_json, empty="no fleets; train or register one")


def _row(desired: Desired) -> dict[str, Cell]:
    version = None if desired.snapshot is None else desired.snapshot.version
    usual = ServingSpec().document()
    return {**fields(desired), "version": version, "spec": [w for w, v in desired.spec.items() if v != usual.get(w)]}


def _print(desired: Desired, said: str, *, as_json: bool) -> None:
    print_json(desired) if as_json else console().print(f"{said}; servers follow within a second")


def _said(value: msgspec.Struct) -> dict[str, Json]:
    """The fields of a spec that are not as they are by default, and so on in what they hold."""
    usual = {
        field.name: field.default for field in msgspec.structs.fields(value) if field.default is not msgspec.NODEFAULT
    }
    return {
        name: _shortened(now)
        for name, now in msgspec.structs.asdict(value).items()
        if name not in usual or now != usual[name]
    }


def _shortened(value: object) -> Json:
    if isinstance(value, msgspec.Struct):
        return _said(value)
    if isinstance(value, tuple):
        return [_shortened(part) for part in value]
    if isinstance(value, dict):
        return {name: _shortened(part) for name, part in value.items()}
    return cast("Json", value)
