"""Fleets of every task and kind of key, and requests for them."""

import datetime as dt

import numpy as np
import polars as pl
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import OneClassSVM

from shoal import Fleet
from shoal.serving.messages import Datatype, InferenceRequest, RequestContext, Tensor
from shoal.types import FeatureKind, KeyType

CONTEXT = RequestContext(request_id="r1", principal="ada")
DEVICES, SENSORS = ("a", "b:1", "ü %", "*"), ("s1", "s2")
DATATYPES = {pl.Float64: "FP64", pl.Int64: "INT64", pl.String: "BYTES", pl.Boolean: "BOOL", pl.Date: "BYTES"}


def data(rng, columns=3, rows=30):
    return rng.normal(size=(rows, columns))


def pumps(name="pumps"):
    """Regression by two texts, with two coarser levels; ``a, s2`` has no model of its own."""
    rng = np.random.default_rng(1)
    keys = [(d, s) for d in DEVICES for s in SENSORS if (d, s) != ("a", "s2")]

    def model():
        return make_pipeline(StandardScaler(), Ridge()).fit(data(rng), rng.normal(size=30))

    forest = RandomForestRegressor(5, random_state=0).fit(data(rng), rng.normal(size=30))
    return Fleet.from_estimators(
        keys=["device", "sensor"],
        models={key: forest if key == ("b:1", "s1") else model() for key in keys},
        fallbacks={("device",): {("a",): model(), ("b:1",): model()}, ("sensor",): {("s1",): model()}},
        features=["x", "y", "z"],
        task="regression",
        name=name,
    )


def classes(labels=("blue", "green", "red"), name="colours"):
    """Classification by an integer."""
    rng = np.random.default_rng(2)
    values = np.array([labels[i % len(labels)] for i in range(60)])
    models = {(i,): LogisticRegression().fit(data(rng, 2, 60), values) for i in (-1, 7)}
    return Fleet.from_estimators(keys=["shop"], models=models, features=["x", "y"], task="classification", name=name)


def anomalies(name="alarms"):
    """Anomaly detection by a date and a boolean."""
    rng = np.random.default_rng(3)
    models = {(dt.date(2026, 1, d), d > 1): OneClassSVM(nu=0.2).fit(data(rng, 2)) for d in (1, 2)}
    return Fleet.from_estimators(keys=["day", "night"], models=models, features=["x", "y"], task="anomaly", name=name)


def categories(name="routes"):
    """One model without a key that takes a text and a number."""
    rng = np.random.default_rng(4)
    texts = np.array(["UA", "AA", "DL"] * 10, dtype=object)
    matrix = np.column_stack([texts, rng.normal(size=30).astype(object)])
    encoder = ColumnTransformer([("c", OneHotEncoder(handle_unknown="ignore"), [0]), ("n", StandardScaler(), [1])])
    model = make_pipeline(encoder, Ridge()).fit(matrix, rng.normal(size=30))
    return Fleet.from_estimators(keys=[], models={(): model}, features=["carrier", "x"], task="regression", name=name)


def constant(value, name="pumps", keys=("a", "b")):
    """A fleet whose every model answers ``value``."""
    models = {(key,): Ridge().fit([[0.0], [1.0]], [value, value]) for key in keys}
    return Fleet.from_estimators(keys=["device"], models=models, features=["x"], task="regression", name=name)


def tensor(name, values, datatype=None):
    if datatype is None:
        kinds = {type(value) for value in values} - {type(None)}
        datatype = {str: "BYTES", int: "INT64", bool: "BOOL", dt.date: "BYTES"}.get(kinds.pop() if kinds else 0, "FP64")
    plain = [value.isoformat() if isinstance(value, dt.date) else value for value in values]
    return Tensor(name=name, datatype=Datatype(datatype), shape=(len(values),), data=plain)


def request_of(frame, model, *, outputs=None, version=None, leave_out=(), **given):
    """A request with the rows of a frame as lists."""
    inputs = tuple(
        tensor(column.name, column.to_list(), DATATYPES[type(column.dtype)])
        for column in frame
        if column.name not in leave_out
    )
    return InferenceRequest(model=model, inputs=inputs, outputs=outputs, version=version, **given)


def rows_for(fleet, rng, count):
    """Random rows: keys with and without models, missing values, infinities."""
    frame = fleet.models
    columns = {}
    for key in fleet.keys:
        known = [value for value in frame[key.name].unique(maintain_order=True).to_list() if value is not None]
        strange = {KeyType.STRING: "nobody", KeyType.INTEGER: 123, KeyType.BOOLEAN: True, KeyType.DATE: None}[key.type]
        choices = [*known, *known, *known, strange, None]
        columns[key.name] = pl.Series(
            [choices[i] for i in rng.integers(len(choices), size=count)], dtype=DTYPES[key.type]
        )
    for feature in fleet.features:
        if feature.kind is FeatureKind.CATEGORY:
            values = [["UA", "AA", "DL", "??", None][i] for i in rng.integers(5, size=count)]
            columns[feature.name] = pl.Series(values, dtype=pl.String)
        else:
            values = rng.normal(size=count)
            odd = rng.random(count)
            values[odd < 0.05] = np.inf
            numbers = [None if o > 0.95 else float(v) for o, v in zip(odd, values, strict=True)]
            columns[feature.name] = pl.Series(numbers, dtype=pl.Float64)
    return pl.DataFrame(columns)


DTYPES = {
    KeyType.STRING: pl.String,
    KeyType.INTEGER: pl.Int64,
    KeyType.BOOLEAN: pl.Boolean,
    KeyType.DATE: pl.Date,
}
FLEETS = {
    "regression": pumps,
    "texts": classes,
    "integers": lambda: classes((1, 5, 8), "sizes"),
    "booleans": lambda: classes((False, True), "flags"),
    "anomaly": anomalies,
    "single": categories,
}
