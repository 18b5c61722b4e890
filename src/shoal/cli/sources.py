"""``shoal sources``: where features are looked up and predictions cached."""

from pathlib import Path

import click
import msgspec

from shoal.cli.invocation import Invocation
from shoal.cli.output import Cell, console, examples, json_option, print_facts, print_json, print_listing
from shoal.requests.sources import Source, document

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def sources() -> None:
    """Name the places where features are looked up."""


@sources.command("list")
@json_option
@click.pass_obj
def list_sources(invocation: Invocation, as_json: bool) -> None:
    """List the sources."""
    with invocation.workspace() as workspace:
        found = workspace.sources()
    rows = [{"name": name, "kind": document(source)["kind"], "at": _place(source)} for name, source in found.items()]
    empty = "no sources; name one with `shoal sources set NAME --file FILE`"
    print_listing(rows, ("name", "kind", "at"), as_json=as_json, empty=empty)


@sources.command(epilog=examples("shoal sources show customers"))
@click.argument("name")
@json_option
@click.pass_obj
def show(invocation: Invocation, name: str, as_json: bool) -> None:
    """Show a source's definition."""
    with invocation.workspace() as workspace:
        source = workspace.source(name)
    print_json(document(source)) if as_json else print_facts(_facts(source))


@sources.command("set", epilog=examples("shoal sources set customers --file customers.yaml"))
@click.argument("name")
@click.option("--file", "path", type=_FILE, required=True, help="YAML file with kind, url and so on.")
@json_option
@click.pass_obj
def set_source(invocation: Invocation, name: str, path: Path, as_json: bool) -> None:
    """Say what a source's name means; servers follow at once.

    Passwords and tokens are no part of it: write ${NAME} for an environment variable of the servers.
    """
    with invocation.workspace() as workspace:
        workspace.set_source(name, path)
        source = workspace.source(name)
    print_json(document(source)) if as_json else console().print(f"{name} is {_place(source)} now")


@sources.command(epilog=examples("shoal sources remove customers"))
@click.argument("name")
@click.pass_obj
def remove(invocation: Invocation, name: str) -> None:
    """Forget a source that no fleet is served with."""
    with invocation.workspace() as workspace:
        workspace.source(name)
        workspace.set_source(name, None)
    console().print(f"{name} means nothing any more")


def _facts(source: Source) -> dict[str, Cell]:
    return {name: msgspec.to_builtins(value) for name, value in document(source).items()}


def _place(source: Source) -> str:
    return str(getattr(source, "path", None) or getattr(source, "url", ""))
