"""``shoal import``: a folder of fitted models becomes a fleet."""

import tempfile
from pathlib import Path

import click

from shoal.cli import output
from shoal.cli.invocation import Invocation
from shoal.cli.progress import reporting
from shoal.errors import InvalidInput
from shoal.importing import Imported, import_models
from shoal.types import KeyColumn, KeyType, Task

SHOWN = 20


_EXAMPLES = output.examples(
    "shoal import models --name pumps --keys device,unit:integer --trust-pickle \\",
    "    --path '{device}/{unit}.joblib' --features a,b,c --task anomaly",
)


@click.command("import", epilog=_EXAMPLES)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--name", required=True, help="Name of the fleet.")
@click.option("--keys", default="", help="Key columns, e.g. 'device,sensor' or 'store:integer'.")
@click.option("--features", required=True, help="Columns the models were fitted on, in their order, e.g. 'a,b,c'.")
@click.option("--task", required=True, type=click.Choice([task.value for task in Task]), help="What they predict.")
@click.option("--path", help="Where keys stand in a file's path, e.g. '{device}/{sensor}.joblib'.")
@click.option("--trust-pickle", is_flag=True, help="Read the files although reading one can run any code in it.")
@output.json_option
@click.pass_obj
def command(
    invocation: Invocation,
    folder: Path,
    name: str,
    keys: str,
    features: str,
    task: str,
    path: str | None,
    trust_pickle: bool,
    as_json: bool,
) -> None:
    """Turn a folder of joblib or pickle files into a fleet.

    Each file is read once, in a process of its own; what the fleet keeps is numbers, which cannot run. A model that
    cannot be laid out is left out and listed with the part that stopped it.
    """
    with tempfile.TemporaryDirectory() as scratch, reporting() as progress:
        imported = import_models(
            folder,
            into=Path(scratch),
            name=name,
            keys=[_key_column(word) for word in _words(keys)],
            features=_words(features),
            task=Task(task),
            path=path,
            trust_pickle=trust_pickle,
            progress=progress,
        )
        with invocation.workspace() as workspace:
            record = workspace.register(imported.fleet, name, note=f"imported from {folder.absolute()}")
    if as_json:
        output.print_json({"snapshot": record, "refused": imported.refused, "warned": imported.warned})
        return
    _list(imported)
    click.echo(f"{name}:{record.version} has {record.model_count:,} models.")
    click.echo(f"To use it by its name: shoal promote {name}:{record.version}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _key_column(word: str) -> KeyColumn:
    """Read ``name`` or ``name:type``."""
    name, _, kind = word.partition(":")
    try:
        return KeyColumn(name=name, type=KeyType(kind or KeyType.STRING))
    except ValueError:
        raise InvalidInput(f"--keys: {kind!r} is none of {', '.join(KeyType)}; write e.g. {name}:integer") from None


def _list(imported: Imported) -> None:
    """Say which files were refused or need a second look."""
    for title, found in (("Refused", imported.refused), ("Read with a warning", imported.warned)):
        if found:
            click.echo(f"{title} ({len(found):,}):", err=True)
        for refusal in found[:SHOWN]:
            click.echo(output.cell_text(f"  {refusal.path}: {refusal.part}: {refusal.reason}"), err=True)
        if len(found) > SHOWN:
            click.echo(f"  and {len(found) - SHOWN:,} more", err=True)
