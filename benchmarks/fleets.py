"""The race: one call of ``fleet.predict`` against everybody's loop, family by family."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestRegressor,
)
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from benchmarks import peers
from benchmarks.case import Effort, Result, faster, medians_s
from benchmarks.population import FEATURES, KEYS, Fit, Key, Matrix, Population, populate
from shoal.fleet import Fleet

ROWS_EACH = 60
FREE_GROUPS = "the loop's rows are grouped beforehand, Shoal resolves and groups shuffled keys itself"
AS_IT_COMES = "Ray started, rows in its object store, models fetched once per worker; grouping is its own work"


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """Which models, and by how much Shoal has to win.

    Attributes
    ----------
    name : str
        What the table calls it.
    task, method, answer : str
        The fleet's task, the estimators' method and Shoal's column that answer the same question.
    fit : callable
        Fits one model.
    models, distinct : int
        How many models, and how many of them are fitted rather than deep-copied.
    limit : float
        How many times as fast as the preloaded loop Shoal has to be.
    """

    name: str
    task: str
    method: str
    answer: str
    fit: Fit
    models: int
    distinct: int
    limit: float


def _unlabelled(estimator: Callable[[], BaseEstimator], rows: int) -> Fit:
    return lambda generator: estimator().fit(generator.normal(size=(rows, len(FEATURES))))


def _labelled(estimator: Callable[[], BaseEstimator], rows: int) -> Fit:
    def fit(generator: np.random.Generator) -> BaseEstimator:
        X = generator.normal(size=(rows, len(FEATURES)))
        y = X[:, 0] * X[:, 1] + np.sin(3 * X[:, 2]) + 0.1 * generator.normal(size=rows)
        return estimator().fit(X, y)

    return fit


MACHINES = Race(
    name="StandardScaler + OneClassSVM(rbf)",
    task="anomaly",
    method="decision_function",
    answer="score",
    fit=_unlabelled(lambda: make_pipeline(StandardScaler(), OneClassSVM()), 82),
    models=10_000,
    distinct=10_000,
    limit=50,
)

OTHERS = {
    "ridge": Race(
        name="StandardScaler + Ridge",
        task="regression",
        method="predict",
        answer="prediction",
        fit=_labelled(lambda: make_pipeline(StandardScaler(), Ridge()), 82),
        models=10_000,
        distinct=10_000,
        limit=30,
    ),
    "isolation-forest": Race(
        name="IsolationForest(100)",
        task="anomaly",
        method="decision_function",
        answer="score",
        fit=_unlabelled(lambda: IsolationForest(n_estimators=100, random_state=0), 256),
        models=1_000,
        distinct=100,
        limit=30,
    ),
    "random-forest": Race(
        name="RandomForest(100)",
        task="regression",
        method="predict",
        answer="prediction",
        fit=_labelled(lambda: RandomForestRegressor(n_estimators=100, random_state=0), 256),
        models=1_000,
        distinct=100,
        limit=30,
    ),
    "hist-gradient-boosting": Race(
        name="HistGradientBoosting(100)",
        task="regression",
        method="predict",
        answer="prediction",
        fit=_labelled(lambda: HistGradientBoostingRegressor(max_iter=100, random_state=0), 1_000),
        models=1_000,
        distinct=50,
        limit=12,
    ),
    "gradient-boosting": Race(
        name="GradientBoosting(100)",
        task="regression",
        method="predict",
        answer="prediction",
        fit=_labelled(lambda: GradientBoostingRegressor(n_estimators=100, random_state=0), 256),
        models=1_000,
        distinct=100,
        limit=8,
    ),
}


def kernel_machines(effort: Effort) -> list[Result]:
    """Ten thousand one-class SVMs against a loop, against files and against Ray Data."""
    population, fleet = _start(MACHINES, effort)
    cores = len(os.sched_getaffinity(0))
    case = f"{len(population.models):,} {MACHINES.name}, {ROWS_EACH} rows each"
    method = MACHINES.method

    def line(case: str, against: str, peer: Callable[[], object], limit: float | None, note: str = "") -> Result:
        shoal_s, peer_s = medians_s(effort.repeats, [lambda: fleet.predict(population.frame), peer])
        return faster(case, against, shoal_s=shoal_s, peer_s=peer_s, limit=limit, note=note)

    lines = [line(case, "preloaded loop", lambda: peers.loop(population, method), MACHINES.limit, FREE_GROUPS)]
    with peers.Files(population, method) as score:
        lines.append(line("same", "joblib.load + predict per model", score, 100))
    with peers.RayData(population, method, cores=cores) as score:
        lines.append(line("same", "Ray Data map_groups", score, 200, AS_IT_COMES))
    with peers.RayData(population, method, cores=cores, partitions=4 * cores) as score:
        lines.append(line("same", "Ray Data map_groups, tuned", score, None, f"{4 * cores} partitions instead of 200"))
    return lines


def against_the_loop(race: Race) -> Callable[[Effort], list[Result]]:
    """Make the case of one race against the preloaded loop."""

    def case(effort: Effort) -> list[Result]:
        population, fleet = _start(race, effort)
        shoal_s, loop_s = medians_s(
            effort.repeats,
            [lambda: fleet.predict(population.frame), lambda: peers.loop(population, race.method)],
        )
        copied = len(population.models) > race.distinct
        note = f"each model an object of its own, deep copies of {race.distinct} fits" if copied else ""
        title = f"{len(population.models):,} {race.name}, {ROWS_EACH} rows each"
        return [faster(title, "preloaded loop", shoal_s=shoal_s, peer_s=loop_s, limit=race.limit, note=note)]

    return case


def _start(race: Race, effort: Effort) -> tuple[Population, Fleet]:
    """Make the models and the fleet, and insist that both sides give the same answers before any clock starts."""
    models = effort.models(race.models)
    population = populate(race.fit, models=models, rows_each=ROWS_EACH, distinct=race.distinct)
    fleet = Fleet.from_estimators(keys=KEYS, models=population.models, features=FEATURES, task=race.task)
    expected = _in_row_order(peers.loop(population, race.method), population)
    np.testing.assert_allclose(fleet.predict(population.frame)[race.answer].to_numpy(), expected, rtol=1e-9, atol=1e-9)
    return population, fleet


def _in_row_order(answers: Mapping[Key, Matrix], population: Population) -> Matrix:
    """Line a peer's answers up with the rows of the shuffled frame."""
    number = {key: i for i, key in enumerate(population.rows)}
    table = np.stack([answers[key] for key in population.rows])
    frame = population.frame
    rows = [number[key] for key in frame.select(KEYS).iter_rows()]
    return np.asarray(table[rows, frame["position"].to_numpy()])


CASES = {"kernel-machines": kernel_machines, **{name: against_the_loop(race) for name, race in OTHERS.items()}}
