"""``shoal score``: score files with a fleet."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias, get_args

import click

from shoal.batch import spec as specs
from shoal.batch.summary import ScoreSummary
from shoal.cli.invocation import Invocation
from shoal.cli.ledger_table import RunLedger, ledger_json, print_ledger
from shoal.cli.output import console, examples, json_option, print_json
from shoal.cli.progress import reporting
from shoal.errors import InvalidSpec
from shoal.requests.loading import ADVICE
from shoal.storage.documents import read_document

Value: TypeAlias = str | int | Path | tuple[str, ...] | bool | None


def _choice(literal: object) -> click.Choice[str]:
    return click.Choice(list(get_args(literal)))


_FILE = click.Path(dir_okay=False, path_type=Path)
_REQUIRED: Mapping[str, str] = {
    "fleet": "give FLEET, the name of a fleet (`shoal fleets list` shows them)",
    "input": "give --input, a file, folder or glob to score",
    "output": "give --output, the file or folder to write",
}
_EXAMPLES = examples(
    "shoal score pumps@champion --input readings/ --output scores/ --carry time",
    "shoal score --spec nightly.yaml --date time --from 2026-11-20",
    "shoal score --resume 20261121-044012-x7f3",
)


@click.command("score", epilog=_EXAMPLES)
@click.argument("fleet", required=False)
@click.option("--input", "-i", multiple=True, help="File, folder or glob; may be given several times.")
@click.option("--output", "-o", help="File (its ending tells the format) or folder.")
@click.option("--format", type=_choice(specs.InputFormat), help="Format of the input.  [default: by its ending]")
@click.option("--where", help="SQL predicate: only rows for which it is true are scored.")
@click.option("--date", help="Column that --from and --until are about.")
@click.option("--from", "from_", help="Only rows from this date or time on.")
@click.option("--until", help="Only rows before this date or time.")
@click.option("--preprocess", help="SQL over the table 'input', or module:function from LazyFrame to LazyFrame.")
@click.option("--rename", multiple=True, metavar="OLD=NEW", help="Rename an input column; several times.")
@click.option(
    "--serving/--no-serving", default=None, help="Apply the checks, rules and lookup that the fleet is served with."
)
@click.option("--serving-spec", type=_FILE, help="Apply those of a YAML file instead.")
@click.option("--time", help="Column with each row's own time, for looking up what held then.")
@click.option("--output-format", type=_choice(specs.OutputFormat), help="Format of the output.")
@click.option("--partition", help="Template of subfolders, e.g. '{category}/{date}/'.")
@click.option("--carry", multiple=True, help="Input column to carry along into the output; several times.")
@click.option("--if-exists", type=_choice(specs.IfExists), help="When the output is there.  [default: fail]")
@click.option("--missing-model", type=_choice(specs.MissingModel), help="For rows without a model of their own.")
@click.option("--max-errors", metavar="N|P%", help="Most rows that may be invalid or failed.")
@click.option("--failure-policy", type=_choice(specs.FailurePolicy), help="What becomes of shards that failed.")
@click.option("--expires", help="How long left rows may be picked up, e.g. 7d.")
@click.option("--memory", help="Bound of anonymous memory, e.g. 2GiB.  [default: a quarter of the machine]")
@click.option("--shard-rows", type=click.IntRange(min=1), help="Rows per shard.  [default: from --memory]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads to score with.  [default: one per core]")
@click.option("--spec", type=_FILE, help="YAML file with these fields.")
@click.option("--resume", metavar="RUN", help="Finish a run: only what is not done is done.")
@json_option
@click.pass_obj
def score(
    invocation: Invocation, /, fleet: str | None, spec: Path | None, resume: str | None, as_json: bool, **options: Value
) -> None:
    """Score files with FLEET (a name, name@alias or name:version).

    The output becomes visible whole or not at all. Options override the fields of --spec.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if resume is not None:
        if given or fleet or spec:
            raise InvalidSpec("--resume goes on with the run as it was planned: give no other options with it")
        with invocation.workspace() as workspace, reporting() as progress:
            _print(workspace.resume(resume, progress), as_json=as_json)
        return
    job = _job(fleet, spec, given)
    with invocation.workspace() as workspace, reporting() as progress:
        summary = workspace.score(job, progress)
    _print(summary, as_json=as_json)


def _job(fleet: str | None, spec: Path | None, given: Mapping[str, Value]) -> specs.ScoreSpec:
    """The spec of a file, overridden by what the command line says."""
    document: dict[str, object] = specs.load(spec).document() if spec else {}
    if fleet:
        document["fleet"] = fleet
    for name, value in given.items():
        if name == "rename":
            document[name] = _renames(value)
        elif name == "serving_spec":
            document["serving"] = _serving(value, given)
        elif name in ("input", "carry"):
            document[name] = list(value) if isinstance(value, tuple) else value
        else:
            document["from" if name == "from_" else name] = value
    for name, words in _REQUIRED.items():
        if not document.get(name):
            raise InvalidSpec(f"{words}, or write '{name}' into a file and give it with --spec")
    return specs.load(document)


def _serving(path: Value, given: Mapping[str, Value]) -> Mapping[str, object]:
    if "serving" in given:
        raise InvalidSpec("--serving-spec says what to apply: leave --serving and --no-serving out")
    assert isinstance(path, Path)
    return read_document(path, ADVICE)


def _renames(pairs: Value) -> dict[str, str]:
    assert isinstance(pairs, tuple)
    split = [pair.partition("=") for pair in pairs]
    wrong = [pair for pair, (_, sign, _) in zip(pairs, split, strict=True) if not sign]
    if wrong:
        raise InvalidSpec(f"--rename {wrong[0]!r} is not OLD=NEW")
    return {old: new for old, _, new in split}


def _print(summary: ScoreSummary, *, as_json: bool) -> None:
    ledger = RunLedger(report=summary.ledger, state=summary.state)
    if as_json:
        print_json(
            {
                "run": summary.run,
                "fleet": summary.fleet,
                "version": summary.version,
                "state": summary.state,
                "output": str(summary.output),
                "errors": None if summary.errors is None else str(summary.errors),
                "ledger": ledger_json(ledger),
                "seconds": summary.seconds,
            }
        )
        return
    print_ledger(ledger)
    out = console()
    out.print(f"run {summary.run}: {summary.fleet}:{summary.version} in {summary.seconds:.1f} s -> {summary.output}")
    if summary.errors is not None:
        out.print(f"rows that could not be scored: {summary.errors}", style="yellow")
