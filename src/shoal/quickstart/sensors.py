"""Act three: a model per weather station and instrument, and the strangest hours of a year."""

from collections.abc import Sequence

import polars as pl
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from shoal.fleet import Fleet
from shoal.quickstart import charts, nycflights
from shoal.quickstart.findings import Anomaly, Sensors
from shoal.quickstart.stage import Stage
from shoal.types import Key, Outcome
from shoal.workspace import Workspace

FLEET = "weather-sensors"
KEYS = ("station", "sensor")
SHOWN = 6
KEPT_PER_MODEL = 12
OUTSIDE = 0.005
"""Share of the training hours that a model may leave outside: ``nu`` of the one-class SVM."""

WIDTH = 0.02
"""``gamma`` of its kernel: small, so that readings far outside still differ in how far."""


def run(stage: Stage, workspace: Workspace) -> Sensors:
    """Fit, register and promote the fleet, then let it judge every reading of the year."""
    readings = nycflights.sensor_readings()
    stage.open(3, "Sensors", f"{readings.height:,} hourly readings of 3 weather stations with 9 instruments each.")
    estimators = _fit(stage, readings)
    fleet = Fleet.from_estimators(
        keys=KEYS, models=estimators, features=nycflights.SENSOR_FEATURES, task="anomaly", name=FLEET
    )
    record = workspace.register(fleet, FLEET, description="Hourly readings of New York's weather stations, 2013")
    workspace.promote(FLEET, record.version)
    judged = readings.with_columns(fleet.predict(readings, outcome=True).select("score", "is_anomaly", "outcome"))
    sensors = Sensors(
        models=len(fleet),
        readings=readings.height,
        invalid=judged.filter(pl.col("outcome") == Outcome.INVALID.word).height,
        anomalies=_strangest(judged, estimators),
    )
    _print(stage, sensors)
    return sensors


def _fit(stage: Stage, readings: pl.DataFrame) -> dict[Key, Pipeline]:
    """One pipeline per instrument, fitted on the hours in which it reported."""
    groups = readings.drop_nulls().partition_by(KEYS, as_dict=True, maintain_order=True)
    task = "Fitting a model per instrument"
    stage.progress.start(task, len(groups))
    estimators: dict[Key, Pipeline] = {}
    for (station, sensor), group in groups.items():
        X = group.select(nycflights.SENSOR_FEATURES).to_numpy()
        estimator = make_pipeline(StandardScaler(), OneClassSVM(nu=OUTSIDE, gamma=WIDTH))
        estimators[str(station), str(sensor)] = estimator.fit(X)
        stage.progress.advance(task)
    stage.progress.finish(task)
    return estimators


def _strangest(judged: pl.DataFrame, estimators: dict[Key, Pipeline]) -> tuple[Anomaly, ...]:
    """The strangest hour of each day, for every instrument's strangest days.

    A score is 0 at a model's border and minus its ``offset_`` where a reading resembles no support vector at all;
    their ratio compares instruments.
    """
    depths = pl.DataFrame(
        [(station, sensor, float(model[-1].offset_[0])) for (station, sensor), model in estimators.items()],
        schema=[*KEYS, "depth"],
        orient="row",
    )
    days = [*KEYS, pl.col("time").dt.date().alias("day")]
    rows = (
        judged.filter("is_anomaly")
        .join(depths, on=KEYS)
        .with_columns((-pl.col("score") / pl.col("depth")).clip(0, 1).alias("strangeness"))
        .sort("strangeness", "time", descending=[True, False])
        .group_by(days, maintain_order=True)
        .first()
        .group_by(KEYS, maintain_order=True)
        .head(KEPT_PER_MODEL)
        .sort("strangeness", descending=True)
    )
    columns: Sequence[str] = (*KEYS, "time", "reading", "change", "strangeness")
    return tuple(Anomaly(**row) for row in rows.select(columns).iter_rows(named=True))


def _print(stage: Stage, sensors: Sensors) -> None:
    stage.show(
        ("strangest hours, UTC", "station", "sensor", "reading", "in an hour"),
        [
            (
                f"{anomaly.time:%d %B %H:%M}",
                anomaly.station,
                charts.NAMES[anomaly.sensor],
                charts.reading(anomaly),
                charts.change(anomaly),
            )
            for anomaly in sensors.anomalies[:SHOWN]
        ],
    )
    stage.say(f"{sensors.invalid:,} readings are missing or follow a gap: they are marked invalid, not guessed.")
