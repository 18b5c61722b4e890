"""Act two: a model per route for the time in the air, against what one would do otherwise."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shoal.batch.spec import ScoreSpec
from shoal.quickstart import nycflights
from shoal.quickstart.findings import AirTime, Alternative, LedgerEntry, Route
from shoal.quickstart.stage import Stage
from shoal.training.spec import Candidate, Keep, Split, TrainSpec, Window
from shoal.types import Floats, Task
from shoal.workspace import Workspace

FLEET = "air-time"
TRAINED_UNTIL = dt.date(2013, 10, 1)
SCORED_FROM = dt.date(2013, 11, 1)
ENOUGH_ROWS = 30
MARGIN = 0.01

RIDGE = Candidate(
    name="ridge",
    steps=("sklearn.impute.SimpleImputer", "sklearn.preprocessing.StandardScaler", "sklearn.linear_model.Ridge"),
    grid={"ridge__alpha": [1.0, 30.0, 300.0]},
    used_for="segments",
)
BOOSTING = Candidate(
    name="boosting",
    steps=({"sklearn.ensemble.HistGradientBoostingRegressor": {"random_state": 0}},),
    used_for="fallbacks",
)


def run(stage: Stage, workspace: Workspace, folder: Path) -> AirTime:
    """Train a fleet, promote it, score two months in one job, and measure it against the alternatives."""
    flights = nycflights.flights()
    stage.open(
        2,
        "Many models on real data",
        f"{flights.height:,} flights out of New York in 2013 and the weather they left in: one model per origin and "
        "destination for the minutes in the air.",
    )
    source = folder / "flights.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    flights.write_parquet(source)
    workspace.train(_training(source), stage.progress)
    summary = workspace.score(_scoring(source, folder / "air-time.parquet"), stage.progress)
    scored = pl.read_parquet(folder / "air-time.parquet").drop_nulls("air_time")
    models = workspace.fleet(FLEET).models
    air_time = AirTime(
        routes=_routes(scored),
        alternatives=(*_baselines(stage, flights), Alternative(name="What Shoal chose", error_min=_error_min(scored))),
        segments=flights.filter(pl.col("date") < TRAINED_UNTIL).select(nycflights.KEYS).n_unique(),
        kept=models.filter(pl.col("level") == "+".join(nycflights.KEYS)).height,
        ledger=ledger_entry(workspace, summary.run),
    )
    _print(stage, air_time)
    return air_time


def ledger_entry(workspace: Workspace, run: str) -> LedgerEntry:
    """What the ledger says about a run."""
    record, totals = workspace.ledger.run(run), workspace.ledger.totals(run)
    return LedgerEntry(
        run=run,
        snapshot=f"{record.fleet}:{record.version}",
        source_rows=totals.source_rows,
        counts=totals.counts,
    )


def show_ledger(stage: Stage, entry: LedgerEntry) -> None:
    """Print a ledger entry."""
    counts = entry.counts
    numbers = (counts.rows, counts.scored, counts.fallback, counts.no_model, counts.invalid, counts.failed)
    stage.show(
        (f"ledger of {entry.run}", "rows", "scored", "fallback", "no model", "invalid", "failed"),
        ((entry.snapshot, *(f"{number:,}" for number in numbers)),),
    )


def _training(source: Path) -> TrainSpec:
    """Train on January to September, choose on October."""
    return TrainSpec(
        fleet=FLEET,
        description="Minutes in the air of flights out of New York, by route",
        input=(str(source),),
        where="air_time IS NOT NULL",
        keys=nycflights.KEYS,
        features=nycflights.FLIGHT_FEATURES,
        target="air_time",
        task=Task.REGRESSION,
        missing="keep",
        split=Split(time="date", validation=Window(from_=str(TRAINED_UNTIL), until=str(SCORED_FROM))),
        candidates=(RIDGE, BOOSTING),
        metric="mae",
        minimum_rows=ENOUGH_ROWS,
        fallback=(("dest",), ()),
        keep=Keep(rule="better", margin=MARGIN),
        promote=True,
    )


def _scoring(source: Path, output: Path) -> ScoreSpec:
    """Score November and December."""
    return ScoreSpec(
        fleet=FLEET,
        input=(str(source),),
        output=str(output),
        date="date",
        from_=str(SCORED_FROM),
        carry=("date", "distance", "air_time"),
        if_exists="replace",
    )


def _routes(scored: pl.DataFrame) -> tuple[Route, ...]:
    """How well each route was predicted, and by which model."""
    words = {"origin+dest": "route", "dest": "destination", "global": "global"}
    rows = (
        scored.group_by(nycflights.KEYS)
        .agg(
            pl.col("distance").first().alias("distance_mi"),
            pl.len().alias("flights"),
            (pl.col("prediction") - pl.col("air_time")).abs().mean().alias("error_min"),
            pl.col("model_level").first().replace_strict(words).alias("level"),
        )
        .sort(nycflights.KEYS)
    )
    return tuple(Route(**row) for row in rows.iter_rows(named=True))


def _error_min(scored: pl.DataFrame) -> float:
    return float((scored["prediction"] - scored["air_time"]).abs().mean())  # type: ignore[arg-type]


def _baselines(stage: Stage, flights: pl.DataFrame) -> tuple[Alternative, ...]:
    """Fit and measure what one would do without many models, and with them but by hand."""
    known = flights.drop_nulls("air_time")
    before, after = known.filter(pl.col("date") < TRAINED_UNTIL), known.filter(pl.col("date") >= SCORED_FROM)
    X, y, seen = _features(before), before["air_time"].to_numpy(), _features(after)
    contenders: dict[str, Callable[[], Floats]] = {
        "One Ridge for all routes": lambda: _ridge().fit(X, y).predict(seen),
        "One gradient boosting for all routes": lambda: (
            HistGradientBoostingRegressor(random_state=0).fit(X, y).predict(seen)
        ),
        "A Ridge per route, in a loop": lambda: _ridge_per_route(before, after),
    }
    task = "Fitting the alternatives"
    stage.progress.start(task, len(contenders))
    alternatives = []
    for name, predict in contenders.items():
        error = np.abs(predict() - after["air_time"].to_numpy()).mean()
        alternatives.append(Alternative(name=name, error_min=float(error)))
        stage.progress.advance(task)
    stage.progress.finish(task)
    return tuple(alternatives)


def _ridge() -> BaseEstimator:
    return make_pipeline(SimpleImputer(), StandardScaler(), Ridge())


def _features(frame: pl.DataFrame) -> Floats:
    X: Floats = frame.select(nycflights.FLIGHT_FEATURES).to_numpy()
    return X


def _ridge_per_route(before: pl.DataFrame, after: pl.DataFrame) -> Floats:
    """The loop one would write: a model per route with enough rows, the global one for the rest."""
    everywhere = _ridge().fit(_features(before), before["air_time"].to_numpy())
    models = {
        route: _ridge().fit(_features(rows), rows["air_time"].to_numpy())
        for route, rows in before.partition_by(nycflights.KEYS, as_dict=True).items()
        if rows.height >= ENOUGH_ROWS
    }
    numbered = after.with_row_index("number")
    predicted = np.empty(after.height)
    for route, rows in numbered.partition_by(nycflights.KEYS, as_dict=True).items():
        predicted[rows["number"].to_numpy()] = models.get(route, everywhere).predict(_features(rows))
    return predicted


def _print(stage: Stage, air_time: AirTime) -> None:
    show_ledger(stage, air_time.ledger)
    stage.say("")
    stage.show(
        ("November and December", "mean absolute error"),
        [(alternative.name, f"{alternative.error_min:.2f} min") for alternative in air_time.alternatives],
    )
    stage.say(
        f"{air_time.kept} of {air_time.segments} routes kept a model of their own: those that beat their fallback on "
        "October by a margin and on enough flights."
    )
