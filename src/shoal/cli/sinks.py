"""``shoal sinks``: named places where results go instead of to the caller."""

from pathlib import Path
from typing import cast

import click

from shoal.cli.invocation import Invocation
from shoal.cli.output import Cell, console, examples, json_option, print_facts, print_json, print_listing
from shoal.serving.sinks import SinkSpec, document

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def sinks() -> None:
    """Name the places where results may go."""


@sinks.command("list")
@json_option
@click.pass_obj
def list_sinks(invocation: Invocation, as_json: bool) -> None:
    """List the sinks."""
    with invocation.workspace() as workspace:
        found = workspace.sinks()
    rows = [{"name": name, "kind": document(spec)["kind"], "at": _place(spec)} for name, spec in found.items()]
    empty = "no sinks; name one with `shoal sinks set NAME --file FILE`"
    print_listing(rows, ("name", "kind", "at"), as_json=as_json, empty=empty)


@sinks.command(epilog=examples("shoal sinks show results"))
@click.argument("name")
@json_option
@click.pass_obj
def show(invocation: Invocation, name: str, as_json: bool) -> None:
    """Show a sink's definition."""
    with invocation.workspace() as workspace:
        shown = document(workspace.sink(name))
    print_json(shown) if as_json else print_facts(cast("dict[str, Cell]", shown))


@sinks.command("set", epilog=examples("shoal sinks set results --file results.yaml"))
@click.argument("name")
@click.option("--file", "path", type=_FILE, required=True, help="YAML file with kind, url or folder, and so on.")
@json_option
@click.pass_obj
def set_sink(invocation: Invocation, name: str, path: Path, as_json: bool) -> None:
    """Say what a sink's name means; servers follow within a second.

    Passwords and secrets are no part of it: write ${NAME} for an environment variable of the servers.
    """
    with invocation.workspace() as workspace:
        workspace.set_sink(name, path)
        spec = workspace.sink(name)
    print_json(document(spec)) if as_json else console().print(f"{name} is {_place(spec)} now")


@sinks.command(epilog=examples("shoal sinks remove results"))
@click.argument("name")
@click.pass_obj
def remove(invocation: Invocation, name: str) -> None:
    """Forget a sink that no fleet is served with.

    What is on its way there ends among the failed predictions.
    """
    with invocation.workspace() as workspace:
        workspace.sink(name)
        workspace.set_sink(name, None)
    console().print(f"{name} means nothing any more")


def _place(spec: SinkSpec) -> str:
    return str(getattr(spec, "folder", None) or getattr(spec, "url", ""))
