"""The command line: ``shoal VERB ...``.

Every verb is a file of its own and is imported when it is used, so that ``shoal --help`` answers at once. A verb
parses, calls the workspace and prints; it decides nothing. Exit codes: 0 done, 1 an error of ours (one line on
stderr, its traceback with ``--debug``), 2 wrong usage, 130 interrupted.
"""

import importlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import click

from shoal.cli.invocation import Invocation
from shoal.cli.messages import show_messages
from shoal.errors import ShoalError

INTERRUPTED = 130

VERBS: Mapping[str, tuple[str, str]] = {
    "quickstart": ("shoal.cli.quickstart:quickstart", "See what Shoal does, on real data, in five acts."),
    "import": ("shoal.cli.import_models:command", "Turn a folder of model files into a fleet."),
    "train": ("shoal.cli.train:train", "Fit a model per segment and register the fleet."),
    "score": ("shoal.cli.score:score", "Score files with a fleet."),
    "predict": ("shoal.cli.predict:predict", "Score one row."),
    "serve": ("shoal.cli.serve:serve", "Serve fleets in real time, by REST and gRPC."),
    "sinks": ("shoal.cli.sinks:sinks", "Name the places where results may go instead of to the caller."),
    "predictions": ("shoal.cli.predictions:predictions", "Ask without waiting, and see what became of it."),
    "services": ("shoal.cli.services:services", "List the servers that are alive, and what they hold."),
    "stores": ("shoal.cli.stores:stores", "Keep the snapshots of a category in a folder of their own."),
    "keys": ("shoal.cli.keys:keys", "Make, list and revoke API keys."),
    "fleets": ("shoal.cli.fleets:fleets", "List and inspect fleets and their models."),
    "sources": ("shoal.cli.sources:sources", "Name the places where features are looked up."),
    "promote": ("shoal.cli.aliases:promote", "Make an alias name a snapshot."),
    "rollback": ("shoal.cli.aliases:rollback", "Make an alias name the snapshot it named before."),
    "runs": ("shoal.cli.runs:runs", "List and inspect runs."),
    "audit": ("shoal.cli.audit:audit", "List who changed what."),
    "gc": ("shoal.cli.gc:gc", "Delete the files of snapshots that nothing refers to."),
    "warm": ("shoal.cli.warm:warm", "Compile the kernels now, so that the first scoring need not."),
}
"""Where each verb is, and what it does, in the order of the help."""


class LazyGroup(click.Group):
    """A group that imports a verb when it is used, and turns our errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the verbs in the order of the help."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, summary) for verb, (_, summary) in VERBS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except ShoalError as error:
            if ctx.params.get("debug"):
                raise
            raise click.ClickException(" ".join(str(error).split())) from error
        except KeyboardInterrupt as error:
            click.echo("\nInterrupted.", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from error


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"shoal {importlib.metadata.version('shoal')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that holds everything Shoal writes. [default: SHOAL_HOME, else ./.shoal]",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
@click.pass_context
def main(ctx: click.Context, home: Path | None, debug: bool) -> None:
    """Shoal: inference for many models. A fleet is a table of parameters, and scoring is a join."""
    show_messages(debug=debug)
    ctx.obj = Invocation(home=home, debug=debug)
