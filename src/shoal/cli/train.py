"""``shoal train``: fit a model per segment, choose, register."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import click
import msgspec
import polars as pl

from shoal.cli import output
from shoal.cli.invocation import Invocation
from shoal.cli.progress import reporting
from shoal.training.decision import Decision
from shoal.training.distribution import Distribution
from shoal.training.loading import load
from shoal.training.plan import Plan, plan
from shoal.training.results import Alternative
from shoal.training.spec import TrainSpec
from shoal.training.train import TrainedFleet

SHOWN = 15


@click.command(
    "train", epilog=output.examples("shoal train pumps.yaml --dry-run", "shoal train pumps.yaml --processes 4")
)
@click.argument("spec", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only show rows, segments and what would be fitted.")
@click.option("--processes", type=click.IntRange(min=1), help="How many segments to work on at once.")
@output.json_option
@click.pass_obj
def train(invocation: Invocation, spec: Path, dry_run: bool, processes: int | None, as_json: bool) -> None:
    """Fit the candidates of SPEC (a YAML file) in every segment, choose, and register the fleet.

    A segment keeps a model of its own only where it beats its fallback on held-out rows.
    """
    loaded = load(spec)
    if processes is not None:
        loaded = msgspec.structs.replace(loaded, processes=processes)
    if dry_run:
        planned = _planned(invocation, loaded)
        output.print_json(_plan_document(planned)) if as_json else _print_plan(planned)
        return
    with invocation.workspace() as workspace, reporting() as progress:
        trained = workspace.train(loaded, progress)
    output.print_json(_document(trained)) if as_json else _print(loaded, trained)


def _planned(invocation: Invocation, spec: TrainSpec) -> Plan:
    """What training would do; a workspace is opened only where one is needed."""
    if spec.lookup is None:
        return plan(spec)
    with invocation.workspace() as workspace:
        return plan(spec, workspace.history)


def _plan_document(planned: Plan) -> dict[str, object]:
    return {
        "fleet": planned.spec.fleet,
        "rows": planned.summary,
        "split": planned.division.description,
        "levels": _levels(planned),
        "fits": planned.fits,
        "distribution": planned.distribution,
        "warnings": planned.distribution.warnings,
    }


def _levels(planned: Plan) -> list[dict[str, output.Cell]]:
    return [
        {
            "level": segments.name,
            "segments": len(segments),
            "enough_rows": planned.eligible(number),
            "tried": [str(choice) for choice in planned.choices(number)],
        }
        for number, segments in enumerate(planned.levels)
    ]


def _print_plan(planned: Plan) -> None:
    _print_rows(planned.summary, planned.division.description)
    _print_distribution(planned.distribution)
    output.print_table(_levels(planned), ["level", "segments", "enough_rows", "tried"])
    click.echo(f"\n{planned.fits:,} fits, decided by {planned.spec.measure.name}.")
    _warn(planned.distribution.warnings)


def _document(trained: TrainedFleet) -> dict[str, object]:
    return {
        "fleet": trained.snapshot.fleet,
        "version": trained.snapshot.version,
        "run": trained.run,
        "models": len(trained.fleet),
        "decisions": trained.decisions,
        "metric": trained.metric,
        "alternatives": trained.alternatives,
        "rows": trained.rows,
        "split": trained.split,
        "distribution": trained.distribution,
        "comparison": trained.comparison,
        "warnings": trained.warnings,
        "seconds": trained.seconds,
        "segments": trained.report.to_dicts(),
    }


def _print(spec: TrainSpec, trained: TrainedFleet) -> None:
    _print_rows(trained.rows, trained.split)
    _print_distribution(trained.distribution)
    _print_decisions(trained.report)
    _print_segments(trained.report, trained.metric)
    kept, segments = trained.decisions[Decision.KEPT], sum(trained.decisions.values())
    click.echo(f"\n{kept:,} of {segments:,} segments kept a model of their own.")
    _print_alternatives(trained.alternatives, trained.metric, trained.rows["to measure on"])
    _warn(trained.warnings[len(trained.distribution.warnings) :])
    _print_registration(spec, trained)


def _print_rows(rows: Mapping[str, int], split: str) -> None:
    output.print_facts({**{name: f"{count:,}" for name, count in rows.items() if count}, "held out": split})


def _print_distribution(distribution: Distribution) -> None:
    if distribution.segments < 2:
        return
    quantiles = ", ".join(f"{name} {rows:,.0f}" for name, rows in distribution.quantiles.items())
    click.echo(f"\n{distribution.segments:,} segments; training rows in each: {quantiles}")
    for line in distribution.lines:
        click.echo(f"  {line}")
    click.echo()


def _print_decisions(report: pl.DataFrame) -> None:
    counts = report.group_by("level", maintain_order=True).agg(
        pl.len().alias("segments"),
        *((pl.col("decision") == decision.value).sum().alias(decision.value) for decision in Decision),
    )
    output.print_table(counts.to_dicts(), counts.columns)


def _print_segments(report: pl.DataFrame, metric: str) -> None:
    """The largest segments; ``--json`` has them all."""
    largest = report.sort("validation_rows", "rows", "key", descending=[True, True, False]).head(SHOWN)
    rows = largest.rename({"metric": metric, "fallback_metric": "fallback"}).to_dicts()
    click.echo(f"\nThe largest of {report.height:,} (all of them with --json):" if report.height > SHOWN else "")
    output.print_table(rows, ["level", "key", "rows", "candidate", "parameters", metric, "fallback", "decision"])


def _print_alternatives(alternatives: Iterable[Alternative], metric: str, rows: int) -> None:
    listed: list[dict[str, output.Cell]] = [
        {"answered_by": each.name, metric: each.figure, "of_the_held-out_rows": f"{each.rows / rows:.1%}"}
        for each in alternatives
    ]
    output.print_table(listed, ["answered_by", metric, "of_the_held-out_rows"])


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        click.echo(output.cell_text(f"Warning: {warning}"), err=True)


def _print_registration(spec: TrainSpec, trained: TrainedFleet) -> None:
    snapshot = trained.snapshot
    click.echo(
        f"\n{snapshot.reference} has {len(trained.fleet):,} models ({trained.seconds:.1f} s, run {trained.run})."
    )
    if trained.comparison is None:
        click.echo(f"To use it by its name: shoal promote {snapshot.fleet} {snapshot.version}")
    elif trained.comparison.promoted:
        click.echo(f"{snapshot.fleet}@{spec.alias} is now version {snapshot.version}: {trained.comparison.reason}.")
    else:
        click.echo(f"{snapshot.fleet}@{spec.alias} stays as it is: {trained.comparison.reason}.")
