"""Packed trees answer as scikit-learn's estimators do, wherever a row lies; what cannot be packed is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_regression
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from shoal.errors import UnsupportedEstimator
from shoal.families import pack, validate
from shoal.families.stacking import stack
from shoal.families.trees import FAMILY
from shoal.testing.families import score
from shoal.types import Reason

FEATURES = ("a", "b", "c")
seeds = st.integers(0, 2**32 - 1)

# Few distinct numbers, so that ties, thresholds between them and equal leaves abound; some differ beyond float32.
values = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-9, 1.0 + 2**-24, 0.1, 1 / 3, 2.5, -7.0, 1e10, 1e10 + 1, 1e-45, 1e36])


@pytest.fixture(autouse=True)
def one_thread():
    """OpenMP's threads wait for each other by spinning, for ever where cores are few and busy."""
    with threadpool_limits(1):
        yield


@st.composite
def problems(draw, *, missing=True):
    """Training rows, rows to ask for, a target, and a seed."""
    cells = st.one_of(values, st.just(np.nan)) if missing else values
    count = draw(st.integers(4, 40))
    X = np.array(draw(st.lists(st.tuples(cells, cells, cells), min_size=count, max_size=count)))
    X[:3] = [[0, 1, 2], [1, 2, 0], [2, 0, 1]]  # scikit-learn's binning wants two numbers in each column
    asked = np.array(draw(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=50)))
    return X, asked, draw(seeds)


def answers_of(estimator, asked):
    stacked = stack([pack(estimator, FEATURES)])
    block = stacked.block()
    validate(block)
    units = np.array([[0, 0, len(asked)]], dtype=np.int64)
    answers = score(block, np.ascontiguousarray(np.array(asked, np.float64).T), units, len(stacked.labels))
    return answers, stacked


def assert_equal_answers(estimator, asked):
    """Nothing but equality: trees compare and add, and both are done as scikit-learn does them."""
    answers, stacked = answers_of(estimator, asked)
    assert not answers.reasons.any()
    if not hasattr(estimator, "classes_"):
        np.testing.assert_array_equal(answers.values, estimator.predict(asked))
        return
    assert [stacked.labels[label] for label in answers.labels] == estimator.predict(asked).tolist()
    np.testing.assert_allclose(answers.probabilities, estimator.predict_proba(asked), rtol=0, atol=1e-15)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_trees_and_forests(problem):
    X, asked, seed = problem
    target = np.random.default_rng(seed).normal(size=len(X))
    for estimator in (
        DecisionTreeRegressor(random_state=seed % 2**31),
        RandomForestRegressor(3, random_state=seed % 2**31),
        HistGradientBoostingRegressor(max_iter=3, min_samples_leaf=1, early_stopping=False),
    ):
        assert_equal_answers(estimator.fit(X, target), asked)


@settings(max_examples=100, deadline=None)
@given(problems(), st.integers(2, 4))
def test_ties_go_to_the_first_class(problem, classes):
    X, asked, seed = problem
    random = np.random.default_rng(seed)
    target = np.concatenate([np.arange(classes), random.integers(0, classes, len(X))])[: len(X)]
    for estimator in (
        DecisionTreeClassifier(max_depth=2, random_state=0),
        RandomForestClassifier(2, max_depth=1, random_state=seed % 2**31),
        ExtraTreesClassifier(4, max_depth=2, random_state=seed % 2**31),
        HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=1, early_stopping=False),
    ):
        assert_equal_answers(estimator.fit(X, target), asked)


@settings(max_examples=60, deadline=None)
@given(problems(missing=False), st.sampled_from(["squared_error", "absolute_error", "huber", "quantile"]))
def test_boosting(problem, loss):
    X, asked, seed = problem
    target = np.random.default_rng(seed).normal(size=len(X))
    assert_equal_answers(GradientBoostingRegressor(n_estimators=4, loss=loss).fit(X, target), asked)
    classes = np.arange(len(X)) % 3
    assert_equal_answers(GradientBoostingClassifier(n_estimators=2).fit(X, classes), asked)
    assert_equal_answers(GradientBoostingClassifier(n_estimators=2, loss="exponential").fit(X, classes > 1), asked)


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from([1, 2, 3]), st.sampled_from(["auto", 0.1, 0.3]))
def test_rows_on_the_offset_of_an_isolation_forest_are_no_anomalies(problem, features, contamination):
    X, asked, seed = problem
    forest = IsolationForest(
        n_estimators=5, max_features=features, contamination=contamination, random_state=seed % 2**31
    ).fit(X)
    for rows in (X, asked):
        answers, _ = answers_of(forest, rows)
        np.testing.assert_allclose(answers.values, forest.decision_function(rows), rtol=0, atol=1e-14)
        np.testing.assert_array_equal(answers.values < 0, forest.predict(rows) < 0)


def regression(rows=120):
    return make_regression(rows, 3, noise=1.0, random_state=0)


def test_a_tree_of_one_leaf():
    X, y = regression()
    for estimator in (DecisionTreeRegressor(), GradientBoostingRegressor(n_estimators=3), RandomForestRegressor(3)):
        assert_equal_answers(estimator.fit(X, np.full(len(y), 3.25)), X)
    assert_equal_answers(HistGradientBoostingRegressor(max_iter=2).fit(X[:10], y[:10]), X)


def test_large_trees_and_many_features():
    random = np.random.default_rng(0)
    X = random.normal(size=(4000, 60))
    forest = RandomForestRegressor(3, random_state=0, max_features=5).fit(X, X[:, 0] * X[:, 1])
    names = [f"x{i}" for i in range(60)]
    block = stack([pack(forest, names)]).block()
    validate(block)
    asked = random.normal(size=(200, 60))
    answers = score(block, np.ascontiguousarray(asked.T), np.array([[0, 0, 200]]), 0)
    np.testing.assert_array_equal(answers.values, forest.predict(asked))


def test_a_single_class_of_histogram_boosting():
    X, _ = regression(40)
    estimator = HistGradientBoostingClassifier(max_iter=2).fit(X, np.full(40, "all"))
    answers, stacked = answers_of(estimator, X)
    assert (answers.labels == 0).all()
    assert stacked.labels == ("all",)
    np.testing.assert_allclose(answers.probabilities[:, 0], estimator.predict_proba(X)[:, 0], atol=1e-15)


def test_equal_answers_are_kept_once():
    X, y = regression(300)
    packed = pack(RandomForestClassifier(20, random_state=0).fit(X, y > 0), FEATURES)
    distinct = {tuple(row) for row in packed.parameters["answers"].reshape(-1, 2).tolist()}
    assert packed.parameters["answers"].size == 2 * len(distinct) < 100


@pytest.mark.parametrize("kind", [GradientBoostingRegressor, RandomForestRegressor, HistGradientBoostingRegressor])
def test_marks(kind):
    X, y = regression()
    asked = X[:5].copy()
    asked[1, 2], asked[2, 0], asked[3, 1] = np.nan, np.inf, 1e39
    answers, stacked = answers_of(kind().fit(X, y), asked)
    missing = Reason.MISSING_VALUE if kind is GradientBoostingRegressor else Reason.NONE
    large = Reason.NONE if kind is HistGradientBoostingRegressor else Reason.TOO_LARGE_FOR_FLOAT32
    assert answers.reasons.tolist() == [0, missing, Reason.INFINITE_VALUE, large, 0]
    named = [stacked.layout.features[i].name for i in answers.culprits[answers.reasons > 0]]
    assert named == ["c"] * bool(missing) + ["a"] + ["b"] * bool(large)


def test_constant_starts_of_boosting():
    X, y = regression()
    for init in (DummyRegressor(), DummyRegressor(strategy="constant", constant=2.5), "zero", None):
        assert_equal_answers(GradientBoostingRegressor(n_estimators=3, init=init).fit(X, y), X)
    classes = np.digitize(y, [-30, 30])
    for init in (DummyClassifier(strategy="prior"), DummyClassifier(strategy="most_frequent")):
        assert_equal_answers(GradientBoostingClassifier(n_estimators=3, init=init).fit(X, classes), X)


class Mine(RandomForestRegressor):
    """Whatever a subclass overrides is unknown, so it is nobody's estimator."""


@pytest.mark.parametrize(
    ("estimator", "part", "words"),
    [
        (GradientBoostingRegressor(init=Ridge(), n_estimators=2), "init", "Ridge"),
        (GradientBoostingClassifier(init=DummyClassifier(strategy="stratified"), n_estimators=2), "init", "Dummy"),
        (Mine(2), "Mine", "no family"),
    ],
)
def test_refusals_name_the_part(estimator, part, words):
    X, y = regression(40)
    y = y > 0 if "Classifier" in type(estimator).__name__ else y
    with pytest.raises(UnsupportedEstimator, match=words) as refusal:
        pack(estimator.fit(X, y), FEATURES)
    assert part in refusal.value.part


@pytest.mark.parametrize("kind", [DecisionTreeRegressor, RandomForestRegressor, DecisionTreeClassifier])
def test_several_targets_are_refused(kind):
    X, y = regression(40)
    with pytest.raises(UnsupportedEstimator, match="several targets"):
        pack(kind().fit(X, np.stack([y > 0, y > 1], axis=1)), FEATURES)


def test_the_family_warms_up():
    FAMILY.warm()
    assert FAMILY.recognises(RandomForestRegressor())
    assert not FAMILY.recognises(Ridge())
