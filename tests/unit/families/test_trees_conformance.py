"""Estimators made of trees against the suite that every family must pass."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor
from threadpoolctl import threadpool_limits

from shoal.testing.families import check_family


@pytest.fixture(autouse=True)
def one_thread():
    """OpenMP's threads wait for each other by spinning, for ever where cores are few and busy."""
    with threadpool_limits(1):
        yield


FEATURES = ("x0", "x1", "x2", "x3")
FEW = 12

REGRESSORS = {
    "tree": DecisionTreeRegressor(random_state=1),
    "stump": DecisionTreeRegressor(max_depth=1),
    "absolute tree": DecisionTreeRegressor(criterion="absolute_error", max_depth=3),
    "extra tree": ExtraTreeRegressor(random_state=1),
    "forest": RandomForestRegressor(FEW, random_state=1),
    "large forest": RandomForestRegressor(3, bootstrap=False, random_state=1, max_features=0.5),
    "extra trees": ExtraTreesRegressor(FEW, random_state=1),
    "boosting": GradientBoostingRegressor(n_estimators=FEW, random_state=1),
    "boosting from zero": GradientBoostingRegressor(n_estimators=FEW, init="zero", max_depth=5, random_state=1),
    "huber": GradientBoostingRegressor(n_estimators=FEW, loss="huber", random_state=1),
    "absolute": GradientBoostingRegressor(n_estimators=FEW, loss="absolute_error", subsample=0.5, random_state=1),
    "quantile": GradientBoostingRegressor(n_estimators=FEW, loss="quantile", alpha=0.2, random_state=1),
    "histogram": HistGradientBoostingRegressor(max_iter=FEW),
    "fine histogram": HistGradientBoostingRegressor(max_iter=FEW, min_samples_leaf=1, max_leaf_nodes=None),
    "histogram absolute": HistGradientBoostingRegressor(max_iter=FEW, loss="absolute_error"),
    "histogram quantile": HistGradientBoostingRegressor(max_iter=FEW, loss="quantile", quantile=0.8),
    "histogram poisson": HistGradientBoostingRegressor(max_iter=FEW, loss="poisson"),
    "histogram gamma": HistGradientBoostingRegressor(max_iter=FEW, loss="gamma"),
    "histogram stopped early": HistGradientBoostingRegressor(early_stopping=True, random_state=0),
}
CLASSIFIERS = {
    "tree": DecisionTreeClassifier(random_state=1),
    "entropy tree": DecisionTreeClassifier(criterion="entropy", max_leaf_nodes=5, class_weight="balanced"),
    "extra tree": ExtraTreeClassifier(random_state=1),
    "forest": RandomForestClassifier(FEW, random_state=1),
    "shallow forest": RandomForestClassifier(FEW, max_depth=2, random_state=1, class_weight="balanced_subsample"),
    "extra trees": ExtraTreesClassifier(FEW, random_state=1),
    "boosting": GradientBoostingClassifier(n_estimators=FEW, random_state=1),
    "boosting from zero": GradientBoostingClassifier(n_estimators=FEW, init="zero", random_state=1),
    "histogram": HistGradientBoostingClassifier(max_iter=FEW, min_samples_leaf=3),
}
ISOLATION = {
    "isolation": IsolationForest(n_estimators=FEW, random_state=1),
    "some features": IsolationForest(n_estimators=FEW, max_features=2, random_state=1),
    "features twice": IsolationForest(n_estimators=FEW, max_features=0.8, bootstrap=True, random_state=1),
    "contaminated": IsolationForest(n_estimators=FEW, contamination=0.1, random_state=1),
    "few rows": IsolationForest(n_estimators=FEW, max_samples=3, random_state=1),
    "two rows": IsolationForest(n_estimators=FEW, max_samples=2, random_state=1),
    "one row": IsolationForest(n_estimators=FEW, max_samples=1, random_state=1),
}
TAKE_MISSING = (
    "tree", "extra tree", "forest", "extra trees", "histogram", "fine histogram", "histogram poisson",
)  # fmt: skip


def data(seed, *, missing=0.0, rows=150):
    random = np.random.default_rng(seed)
    X = random.normal(size=(rows, len(FEATURES)))
    X[:, 2] = np.round(X[:, 2])
    X[:, 3] *= 1e6
    y = 2 * X[:, 0] + X[:, 1] ** 2 - X[:, 2] + random.normal(size=rows)
    X[random.random(X.shape) < missing] = np.nan
    return X, y


def rows(*fitted):
    """Ordinary rows, training rows, odd ones, and rows that lie on and beside thresholds."""
    X, _ = data(99, rows=30)
    odd = data(98, rows=16)[0]
    odd[np.arange(16), np.arange(16) % 4] = [
        np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, 1e38, -1e38, 3.4028235e38, 1e300, -1e300, 1e-40, np.nan, np.nan,
        2.0, -3.0,
    ]  # fmt: skip
    odd[12] = np.nan
    return np.concatenate([X, data(0)[0][:20], odd, *[beside_thresholds(one) for one in fitted]])


def beside_thresholds(estimator):
    thresholds = estimator.tree_.threshold[estimator.tree_.feature >= 0] if hasattr(estimator, "tree_") else []
    near = [np.array([t, np.nextafter(t, np.inf), np.nextafter(t, -np.inf), np.float32(t)]) for t in thresholds[:10]]
    return np.concatenate([np.stack([column] * 4, axis=1) for column in near]) if near else np.empty((0, 4))


def copies(estimator, target, *, missing=0.0, seeds=(0, 1)):
    fitted = []
    for seed in seeds:
        X, y = data(seed, missing=missing)
        one = type(estimator)(**estimator.get_params())
        fitted.append(one.fit(X, target(y)))
    return fitted


def positive(y):
    return np.abs(y) + 0.1


def classes(count):
    names = np.array(["no", "yes"] if count == 2 else ["ant", "bee", "cat", "dog", "elk"][:count])
    return lambda y: names[np.searchsorted(np.quantile(y, np.linspace(0, 1, count + 1)[1:-1]), y)]


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors(name):
    fitted = copies(REGRESSORS[name], positive if name.endswith(("poisson", "gamma")) else np.array)
    check_family(fitted, features=FEATURES, rows=rows(*fitted))


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name, count):
    fitted = copies(CLASSIFIERS[name], classes(count))
    check_family(fitted, features=FEATURES, rows=rows(*fitted))


def test_exponential_loss():
    estimator = GradientBoostingClassifier(n_estimators=FEW, loss="exponential", random_state=1)
    check_family(copies(estimator, classes(2)), features=FEATURES, rows=rows())


@pytest.mark.parametrize("name", ISOLATION)
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_isolation_forests(name, missing):
    check_family(copies(ISOLATION[name], np.array, missing=missing), features=FEATURES, rows=rows())


@pytest.mark.parametrize("name", TAKE_MISSING)
def test_regressors_fitted_with_missing_values(name):
    fitted = copies(REGRESSORS[name], positive, missing=0.2)
    check_family(fitted, features=FEATURES, rows=rows(*fitted))


@pytest.mark.parametrize("name", [name for name in TAKE_MISSING if name in CLASSIFIERS])
def test_classifiers_fitted_with_missing_values(name):
    fitted = copies(CLASSIFIERS[name], classes(3), missing=0.2)
    check_family(fitted, features=FEATURES, rows=rows(*fitted))


@pytest.mark.parametrize("labels", [[True, False, True], [3, 5, 9], [0.0, 1.0, 2.0]])
def test_labels_of_other_types(labels):
    target = classes(3)
    fitted = copies(
        RandomForestClassifier(5), lambda y: np.array(labels)[np.searchsorted(["ant", "bee", "cat"], target(y))]
    )
    check_family(fitted, features=FEATURES, rows=rows())


def test_a_single_class():
    estimators = [DecisionTreeClassifier(), RandomForestClassifier(3)]
    fitted = [one for estimator in estimators for one in copies(estimator, lambda y: np.full(len(y), "all"))]
    check_family(fitted, features=FEATURES, rows=rows())


def test_behind_a_pipeline():
    X, y = data(0, missing=0.1)
    texts = pl.col("x2").fill_nan(0.0).cast(pl.String)
    frame = pl.DataFrame(X, schema=list(FEATURES)).with_columns(x2=texts)
    columns = ColumnTransformer(
        [
            ("number", make_pipeline(SimpleImputer(), StandardScaler()), ["x0", "x1", "x3"]),
            ("text", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["x2"]),
        ]
    )
    fitted = [
        make_pipeline(columns, final).fit(frame, y)
        for final in (
            RandomForestRegressor(FEW, random_state=0),
            GradientBoostingRegressor(n_estimators=FEW),
            HistGradientBoostingRegressor(max_iter=FEW),
        )
    ]
    isolated = make_pipeline(columns, IsolationForest(n_estimators=FEW, max_features=0.5, random_state=0)).fit(frame)
    check_family([*fitted, isolated], features=FEATURES, rows=frame.head(80))


def categorical_frame(seed, *, missing=True):
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "x0": random.normal(size=200),
            "kind": pd.Categorical(random.choice(["oak", "elm", "fir", "yew"], 200)),
            "x1": random.normal(size=200),
            "place": pd.Categorical(random.choice([f"town {i:02}" for i in range(70)], 200)),
        }
    )
    target = frame["x0"] + (frame["kind"] == "elm") * 3 - (frame["kind"] == "fir") * 2
    target += frame["place"].cat.codes.to_numpy() % 3
    if missing:
        frame.loc[random.random(200) < 0.1, ["kind", "x1"]] = np.nan
    return frame, target.to_numpy()


def categorical_rows():
    random = np.random.default_rng(5)
    return pl.DataFrame(
        {
            "x0": [*random.normal(size=58), np.nan, 0.0],
            "kind": [*random.choice(["oak", "elm", "fir", "yew", "new"], 58).tolist(), None, ""],
            "x1": [*random.normal(size=58), np.nan, np.nan],
            "place": [*random.choice([f"town {i:02}" for i in range(75)], 58).tolist(), None, "town"],
        }
    )


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kind", [HistGradientBoostingRegressor, HistGradientBoostingClassifier])
def test_categories_by_dtype(kind, missing):
    fitted = []
    for seed in (0, 1):
        frame, y = categorical_frame(seed, missing=missing)
        y = classes(3)(y) if kind is HistGradientBoostingClassifier else y
        fitted.append(kind(max_iter=FEW, min_samples_leaf=3, categorical_features="from_dtype").fit(frame, y))
    check_family(fitted, features=("x0", "kind", "x1", "place"), rows=categorical_rows())


def test_categories_with_nulls_of_polars():
    fitted = []
    for seed in (0, 1):
        frame, y = categorical_frame(seed)
        polars = pl.from_pandas(frame).with_columns(pl.col("x1").fill_null(np.nan))
        assert polars["kind"].null_count() > 0  # scikit-learn makes null a category of its own
        fitted.append(HistGradientBoostingRegressor(max_iter=FEW, min_samples_leaf=3).fit(polars, y))
    check_family(fitted, features=("x0", "kind", "x1", "place"), rows=categorical_rows())


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_categories_as_numbers(missing):
    fitted = []
    for seed in (0, 1):
        X, y = data(seed, missing=missing)
        X[:, 1] = np.random.default_rng(seed).integers(-3, 250, len(X))
        estimator = HistGradientBoostingRegressor(max_iter=FEW, min_samples_leaf=2, categorical_features=[1, 2])
        fitted.append(estimator.fit(X, y + X[:, 1] % 3))
    asked = data(7, missing=0.1)[0][:70]
    asked[:, 1] = np.random.default_rng(7).integers(-6, 260, len(asked))
    asked[:5, 1] = [np.nan, 0.5, -0.0, 1e9, -1.0]
    check_family(fitted, features=FEATURES, rows=asked)


def test_categories_behind_a_one_hot_part():
    frame, y = categorical_frame(0, missing=False)
    plain = frame.assign(place=frame["place"].astype(object))
    columns = ColumnTransformer(
        [("hot", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["place"])], remainder="passthrough"
    )
    plain["kind"] = plain["kind"].cat.codes.astype(float)
    towns = plain["place"].nunique()
    final = HistGradientBoostingRegressor(max_iter=FEW, min_samples_leaf=3, categorical_features=[towns + 1])
    fitted = make_pipeline(columns, final).fit(plain, y)
    asked = categorical_rows().drop_nulls()
    asked = asked.with_columns(kind=pl.Series(np.arange(len(asked)) % 6 - 1.0))
    check_family([fitted], features=("x0", "kind", "x1", "place"), rows=asked)
