"""Act one: the same ten thousand models, scored by a loop over scikit-learn and by Shoal."""

import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from shoal.errors import ShoalError
from shoal.fleet import Fleet
from shoal.quickstart.findings import Race
from shoal.quickstart.stage import Stage
from shoal.scoring.warming import warm_kernels
from shoal.types import Floats, Key

MODELS = 10_000
ROWS_EACH = 60
TRAINING_ROWS = 82
FEATURES = ("a", "b", "c", "d")
KEYS = ("device", "sensor")
SENSORS_PER_DEVICE = 8
CALLS = 5


def run(stage: Stage) -> Race:
    """Fit the models, let both score the same rows, and compare every answer."""
    stage.open(1, "The race", f"{MODELS:,} anomaly models, one per device and sensor, {ROWS_EACH} new readings each.")
    _prepare(stage)
    generator = np.random.default_rng(2013)
    estimators = _fit(stage, generator)
    fleet = Fleet.from_estimators(keys=KEYS, models=estimators, features=FEATURES, task="anomaly", name="race")
    readings = {key: generator.normal(size=(ROWS_EACH, len(FEATURES))) for key in estimators}
    frame = _shuffled(readings, generator)
    expected, loop_s = _loop(stage, estimators, readings)
    answers, shoal_s = _one_call(fleet, frame)
    race = Race(
        models=MODELS,
        rows=frame.height,
        loop_s=loop_s,
        shoal_s=shoal_s,
        difference=_difference(answers, frame, expected),
    )
    _print(stage, race)
    return race


def _prepare(stage: Stage) -> None:
    """Compile the kernels where this machine has not compiled them yet."""
    task = "Preparing the kernels (compiled once per machine)"
    stage.progress.start(task, None)
    warm_kernels()
    stage.progress.finish(task)


def _fit(stage: Stage, generator: np.random.Generator) -> dict[Key, Pipeline]:
    """Fit every model on readings of its own; none is a copy of another."""
    task = "Fitting the models with scikit-learn"
    stage.progress.start(task, MODELS)
    estimators: dict[Key, Pipeline] = {}
    for number in range(MODELS):
        device, sensor = divmod(number, SENSORS_PER_DEVICE)
        X = generator.normal(size=(TRAINING_ROWS, len(FEATURES)))
        estimators[f"device-{device:05d}", f"sensor-{sensor}"] = make_pipeline(StandardScaler(), OneClassSVM()).fit(X)
        stage.progress.advance(task)
    stage.progress.finish(task)
    return estimators


def _grouped(columns: Mapping[str, Floats], keys: Sequence[Key]) -> pl.DataFrame:
    """Rows model by model, each with its model's key and its ``position`` among the model's rows."""
    each = len(next(iter(columns.values()))) // len(keys)
    return pl.DataFrame(columns).with_columns(
        pl.Series("device", np.repeat([device for device, _ in keys], each)),
        pl.Series("sensor", np.repeat([sensor for _, sensor in keys], each)),
        pl.Series("position", np.tile(np.arange(each), len(keys))),
    )


def _shuffled(readings: Mapping[Key, Floats], generator: np.random.Generator) -> pl.DataFrame:
    """All readings in one frame and in no order."""
    X = np.concatenate(list(readings.values()))
    frame = _grouped({name: X[:, column] for column, name in enumerate(FEATURES)}, list(readings))
    return frame[generator.permutation(frame.height)].rechunk()


def _loop(
    stage: Stage, estimators: Mapping[Key, Pipeline], readings: Mapping[Key, Floats]
) -> tuple[dict[Key, Floats], float]:
    """Score model by model; the loop gets its rows grouped for free, so only its calls are timed."""
    task = "Scoring with a loop over the models"
    stage.progress.start(task, len(estimators))
    answers: dict[Key, Floats] = {}
    seconds = 0.0
    for key, estimator in estimators.items():
        started = time.perf_counter()
        answers[key] = estimator.decision_function(readings[key])
        seconds += time.perf_counter() - started
        stage.progress.advance(task)
    stage.progress.finish(task)
    return answers, seconds


def _one_call(fleet: Fleet, frame: pl.DataFrame) -> tuple[pl.DataFrame, float]:
    """Score everything at once, ``CALLS`` times, and take the median of the times."""
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        answers = fleet.predict(frame)
        times.append(time.perf_counter() - started)
    return answers, statistics.median(times)


def _difference(answers: pl.DataFrame, frame: pl.DataFrame, expected: Mapping[Key, Floats]) -> float:
    """Compare each of Shoal's answers with the loop's answer to the same row."""
    truth = _grouped({"score": np.concatenate(list(expected.values()))}, list(expected))
    paired = answers.with_columns(frame["position"]).join(truth, on=[*KEYS, "position"], suffix="_loop")
    if paired.height != frame.height or paired["score"].null_count():
        raise ShoalError("Some rows of the race got no answer; run `shoal quickstart` again and report this as a bug")
    return float(np.abs(paired["score"].to_numpy() - paired["score_loop"].to_numpy()).max())


def _print(stage: Stage, race: Race) -> None:
    stage.show(
        ("", "time", "rows per second"),
        (
            ("A loop over scikit-learn models", f"{race.loop_s:.2f} s", f"{race.rows / race.loop_s:,.0f}"),
            (f"Shoal, one call (median of {CALLS})", f"{race.shoal_s:.3f} s", f"{race.rows / race.shoal_s:,.0f}"),
        ),
    )
    stage.say(
        "Shoal was ",
        (f"{race.ratio:,.0f} times as fast", "bold"),
        f"; the largest difference between two answers is {race.difference:.1e}.",
    )
