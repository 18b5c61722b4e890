"""Metrics equal scikit-learn's."""

import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.metrics import METRICS, default_metric
from shoal.types import Floats, Task

SEEDS = st.integers(0, 2**32 - 1)


def close(own: float, theirs: float) -> bool:
    return bool(np.isclose(own, theirs, rtol=1e-9, atol=1e-12, equal_nan=True))


@given(seed=SEEDS, rows=st.integers(2, 40), ties=st.booleans())
def test_errors_of_regression(seed: int, rows: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    truth, found = rng.normal(size=(2, rows)) * 10
    if ties:
        truth, found = truth.round(), found.round()
    answers = found.reshape(-1, 1)
    assert close(METRICS["mae"](truth, answers), sk.mean_absolute_error(truth, found))
    assert close(METRICS["rmse"](truth, answers), sk.root_mean_squared_error(truth, found))
    assert close(METRICS["mape"](truth, answers), sk.mean_absolute_percentage_error(truth, found))
    assert close(METRICS["r2"](truth, answers), sk.r2_score(truth, found))


def labels_and_shares(seed: int, rows: int, width: int, coarse: bool) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, width, rows).astype(np.float64)
    shares = rng.dirichlet(np.ones(width), rows)
    if coarse:
        shares = (shares * 4).round() + 1
        shares /= shares.sum(axis=1, keepdims=True)
    return truth, shares


@given(seed=SEEDS, rows=st.integers(2, 40), width=st.integers(2, 5), coarse=st.booleans())
def test_figures_of_labels(seed: int, rows: int, width: int, coarse: bool) -> None:
    truth, shares = labels_and_shares(seed, rows, width, coarse)
    found = shares.argmax(axis=1).astype(np.float64)
    answers = found.reshape(-1, 1)
    assert close(METRICS["accuracy"](truth, answers), sk.accuracy_score(truth, found))
    assert close(METRICS["f1"](truth, answers), sk.f1_score(truth, found, average="macro"))


@given(seed=SEEDS, rows=st.integers(2, 40), width=st.integers(2, 5), coarse=st.booleans())
def test_figures_of_probabilities(seed: int, rows: int, width: int, coarse: bool) -> None:
    truth, shares = labels_and_shares(seed, rows, width, coarse)
    shares[0] = np.eye(width)[int(truth[0] + 1) % width]  # a label that a model never saw has probability 0
    every = list(range(width))
    assert close(METRICS["log_loss"](truth, shares), sk.log_loss(truth, shares, labels=every))
    areas = []
    for label in every[1:] if width == 2 else every:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            areas.append(sk.roc_auc_score(truth == label, shares[:, label]))
    defined = [area for area in areas if not np.isnan(area)]
    assert close(METRICS["auc"](truth, shares), float(np.mean(defined)) if defined else float("nan"))


def test_anomalies_are_below_zero() -> None:
    scores = np.array([[-1.0], [0.0], [2.0], [-0.5]])
    assert METRICS["flagged"](np.zeros(4), scores) == 0.5
    assert METRICS["mean_decision"](np.zeros(4), scores) == pytest.approx(0.125)


def test_nothing_measures_nothing() -> None:
    for metric in METRICS.values():
        assert np.isnan(metric(np.empty(0), np.empty((0, 2))))


def test_better_is_known_per_metric() -> None:
    mae, r2 = METRICS["mae"], METRICS["r2"]
    assert mae.best(np.array([np.nan, 3.0, 2.0, 2.0])) == 2
    assert r2.best(np.array([np.nan, 0.3, 0.2])) == 1
    assert mae.best(np.array([np.nan])) == -1
    assert mae.gain(9.0, 10.0) == pytest.approx(0.1)
    assert r2.gain(0.9, 0.8) == pytest.approx(0.1)
    assert mae.gain(0.0, 0.0) == 0


@pytest.mark.parametrize("task", list(Task))
def test_every_task_has_a_default(task: Task) -> None:
    assert task in default_metric(task).tasks
