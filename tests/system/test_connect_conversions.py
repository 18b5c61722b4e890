"""A remote fleet converts rows as the fleet does: the same answers, whatever form keys and features come in."""

import datetime as dt
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import OneClassSVM

import shoal
from shoal import Fleet
from shoal.errors import InvalidInput
from tests.system.serve_process import serving

DAY = dt.date(2026, 3, 1)
X = np.array([0.0, 1.0, 2.0, 3.0])


def number(slope):
    return Ridge(alpha=1e-9).fit(X[:, None], slope * X)


def category():
    matrix = np.column_stack([np.array(["1", "2.5", "true", "x"], dtype=object), X.astype(object)])
    encoder = ColumnTransformer([("c", OneHotEncoder(handle_unknown="ignore"), [0]), ("n", StandardScaler(), [1])])
    return make_pipeline(encoder, Ridge(alpha=1e-9)).fit(matrix, [1.0, 10.0, 100.0, 1000.0])


def keyed(name, key, other):
    """A model for each of two keys, and one for all others."""
    models = {(key,): number(1.0), (other,): number(2.0)}
    return Fleet.from_estimators(
        keys=["k"], models=models, fallbacks={(): {(): number(3.0)}}, features=["x"], task="regression", name=name
    )


FLEETS = {
    "string": keyed("string", "7", "true"),
    "integer": keyed("integer", 7, -1),
    "boolean": keyed("boolean", True, False),
    "date": keyed("date", DAY, dt.date(1969, 12, 31)),
    "category": Fleet.from_estimators(
        keys=["k"], models={(7,): category()}, features=["c", "x"], task="regression", name="category"
    ),
}


def of_task(name, task, estimator, y=None):
    rows = np.column_stack([X, X[::-1]])
    fitted = estimator.fit(rows) if y is None else estimator.fit(rows, y)
    return Fleet.from_estimators(keys=["k"], models={(7,): fitted}, features=["x", "y"], task=task, name=name)


TASKS = {
    "texts": of_task("texts", "classification", LogisticRegression(), ["a", "b", "c", "c"]),
    "numbers": of_task("numbers", "classification", LogisticRegression(), [1, 2, 2, 1]),
    "flags": of_task("flags", "classification", LogisticRegression(), [True, False, False, True]),
    "anomaly": of_task("anomaly", "anomaly", OneClassSVM(nu=0.5)),
}
FLOATS = [7.0, -1.0, 7.5, float("nan"), None, float("inf"), 1e30]
KEYS = {
    "string": ["7", "true", "other", "", "ü", None],
    "text": ["7", "7.0", " 7", "-1", "x", "True", "false", "FALSE", "2026-03-01", "1969-12-31", "2026-13-01", "", None],
    "categorical": pl.Series(["7", "true", "x", "2026-03-01", None], dtype=pl.Categorical),
    "integer": [7, -1, 0, None],
    "small": pl.Series([7, -1], dtype=pl.Int8),
    "large": pl.Series([7, 2**63], dtype=pl.UInt64),
    "float": FLOATS,
    "single": pl.Series([7.0, -1.0, 0.5], dtype=pl.Float32),
    "decimal": [Decimal("7.00"), Decimal("-1.00"), Decimal("7.50"), None],
    "boolean": [True, False, None],
    "date": [DAY, dt.date(1969, 12, 31), None],
    "datetime": [dt.datetime(2026, 3, 1, 12), dt.datetime(1969, 12, 31, 23, 59), None],
    "null": pl.Series([None, None], dtype=pl.Null),
    "list": [[7], [8]],
}
FEATURES = {
    "float": [0.1, 1e300, -0.0, float("nan"), float("inf"), float("-inf"), None],
    "integer": [1, 2**53 + 1, None],
    "unsigned": pl.Series([1, 2**64 - 1], dtype=pl.UInt64),
    "single": pl.Series([0.1, 2.5], dtype=pl.Float32),
    "decimal": [Decimal("0.1"), Decimal("2.5"), None],
    "boolean": [True, False, None],
    "text": ["0.1", "1", "2.5", "1e3", " 1", "x", "true", "inf", "nan", "", None],
    "categorical": pl.Series(["1", "x", "2.5", None], dtype=pl.Categorical),
    "null": pl.Series([None, None], dtype=pl.Null),
    "date": [DAY, None],
    "list": [[1.0], [2.0]],
}
WISHES = {"outcome": True, "model_level": True, "snapshot": True}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The fleets of a workspace, and as many remote ones."""
    folder = tmp_path_factory.mktemp("conversions")
    with shoal.open(folder / "home") as workspace:
        for name, fleet in (FLEETS | TASKS).items():
            workspace.register(fleet)
            workspace.promote(name, 1)
        with serving(folder / "home", folder / "server", "--no-grpc") as server, shoal.connect(server.url) as client:
            yield workspace, client, server


def answer(fleet, frame):
    try:
        return fleet.predict(frame, **WISHES)
    except InvalidInput as error:
        return str(error)


def require_same(world, name, frame):
    workspace, client, _ = world
    expected, found = answer(workspace.fleet(name), frame), answer(client.fleet(name), frame)
    if isinstance(expected, str):
        assert found == expected
        return expected
    assert found.schema == expected.schema
    assert found.equals(expected), (expected, found)
    return expected


@pytest.mark.parametrize("form", KEYS)
@pytest.mark.parametrize("kind", ["string", "integer", "boolean", "date"])
def test_keys_of_any_form(world, kind, form):
    values = KEYS[form]
    require_same(world, kind, {"k": values, "x": [1.5] * len(values)})


@pytest.mark.parametrize("form", FEATURES)
@pytest.mark.parametrize("name", ["x", "c"])
def test_features_of_any_form(world, name, form):
    values = FEATURES[form]
    given = {"k": [7] * len(values), "x": [1.5] * len(values), "c": ["x"] * len(values)}
    require_same(world, "category", given | {name: values})


@pytest.mark.parametrize("name", TASKS)
def test_answers_of_every_task(world, name):
    found = require_same(world, name, {"k": [7, 7, 8], "x": ["0.5", "x", None], "y": [1.0, 2.0, 3.0]})
    assert set(found["outcome"]) >= {"scored", "invalid"}
    require_same(world, name, {"k": [], "x": [], "y": []})


def test_what_is_compared_is_more_than_refusals(world):
    found = require_same(world, "integer", {"k": FLOATS, "x": ["1", "x", "2", "3", "4", "5", "6"]})
    assert found["outcome"].to_list() == [
        "scored", "invalid", "invalid", "fallback", "fallback", "invalid", "invalid",
    ]  # fmt: skip
    assert found["k"].to_list() == [7, -1, None, None, None, None, None]
    dates = require_same(world, "date", {"k": ["2026-03-01", "1.3.2026"], "x": ["1", "2"]})
    assert dates["k"].to_list() == [DAY, None]


def test_a_single_model_converts_as_well(world):
    workspace, client, _ = world
    frame = {"c": [7, 1, None], "x": ["1", "x", "2.5"]}
    expected = workspace.fleet("category")[7].predict(frame)
    assert client.fleet("category")[7].predict(frame).equals(expected)
    assert expected["prediction"].is_not_null().to_list() == [True, False, True]


def test_what_nobody_waits_for_is_converted_as_well(world):
    workspace, client, _ = world
    frame = {"k": [7.0, 7.5], "x": ["1", "2"]}
    expected = answer(workspace.fleet("integer"), frame).drop("k")
    expected = expected.with_columns(pl.col("model_level").cast(pl.String))  # a result does not say which there are
    for made in (workspace.submit("integer", frame, **WISHES), client.submit("integer", frame, **WISHES)):
        found = client.result(made, timeout_s=20)
        assert found.schema == expected.schema
        assert found.equals(expected)
