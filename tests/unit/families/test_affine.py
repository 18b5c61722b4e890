"""Every linear model answers as scikit-learn does, on random data and on edge values."""

import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import linear_model, svm
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from shoal.errors import UnsupportedEstimator
from shoal.families import family, pack
from shoal.families.affine_recipes import RECIPES
from shoal.families.names import class_name
from shoal.families.stacking import stack
from shoal.testing.families import blank_answers, check_family, frozen_block, score
from shoal.testing.rows import as_frame
from shoal.types import Reason, Task

FEATURES = ["a", "b", "c", "d"]

REGRESSORS = [
    linear_model.ARDRegression(),
    linear_model.BayesianRidge(),
    linear_model.ElasticNet(alpha=0.1),
    linear_model.ElasticNetCV(cv=2, alphas=3),
    linear_model.HuberRegressor(),
    linear_model.Lasso(alpha=0.1),
    linear_model.Lasso(alpha=0.1, positive=True),
    linear_model.LassoCV(cv=2, alphas=3),
    linear_model.LinearRegression(),
    linear_model.LinearRegression(positive=True),
    linear_model.LinearRegression(fit_intercept=False),
    linear_model.QuantileRegressor(alpha=0.01),
    linear_model.Ridge(),
    linear_model.Ridge(solver="sag", random_state=0),
    linear_model.Ridge(positive=True),
    linear_model.RidgeCV(),
    linear_model.SGDRegressor(random_state=0),
    linear_model.SGDRegressor(average=True, loss="huber", random_state=0),
    svm.LinearSVR(),
    svm.LinearSVR(fit_intercept=False, loss="squared_epsilon_insensitive"),
]

POSITIVE_REGRESSORS = [
    linear_model.PoissonRegressor(),
    linear_model.GammaRegressor(),
    linear_model.TweedieRegressor(),
    linear_model.TweedieRegressor(power=1.5),
    linear_model.TweedieRegressor(power=1.5, link="log", fit_intercept=False),
    linear_model.TweedieRegressor(power=0, link="log"),
]

CLASSIFIERS = [
    linear_model.LogisticRegression(),
    linear_model.LogisticRegression(fit_intercept=False, solver="newton-cg"),
    linear_model.LogisticRegression(solver="newton-cholesky"),
    linear_model.LogisticRegression(solver="saga", l1_ratio=0.5, max_iter=500),
    linear_model.LogisticRegressionCV(Cs=2, cv=2, l1_ratios=(0,), use_legacy_attributes=False, scoring="accuracy"),
    linear_model.Perceptron(random_state=0),
    linear_model.RidgeClassifier(),
    linear_model.RidgeClassifierCV(),
    linear_model.SGDClassifier(random_state=0),
    linear_model.SGDClassifier(loss="log_loss", random_state=0),
    linear_model.SGDClassifier(loss="modified_huber", random_state=0),
    linear_model.SGDClassifier(loss="squared_hinge", average=True, random_state=0),
    svm.LinearSVC(),
    svm.LinearSVC(multi_class="crammer_singer", fit_intercept=False, max_iter=5000),
]


def name(estimator):
    return repr(estimator).replace(" ", "").replace("\n", "")


def data(seed=0, rows=80):
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(rows, 4)) * [1.0, 3.0, 0.1, 1.0]
    y = X @ [1.0, -2.0, 3.0, 0.5] + generator.normal(size=rows)
    return X, y


def fit(estimator, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return clone(estimator).fit(X, y)


def edge_rows():
    rows = np.random.default_rng(9).normal(size=(40, 4)) * 5
    special = [
        [0.0, -0.0, 0.0, -0.0], [5e-324, 1e-300, -1e-300, 0.0], [1e15, 1.0, -1.0, 2.0], [np.nan, 0.0, 0.0, 0.0],
        [0.0, np.nan, np.inf, 0.0], [0.0, 0.0, -np.inf, 0.0], [1e6, -1e6, 1e6, 1e6], [1.0, 1.0, 1.0, np.nan],
    ]  # fmt: skip
    return np.concatenate([rows, special])


def labelled(y, kind):
    few = np.digitize(y, [-1.0] if kind.startswith("two") else [-3.0, 0.0, 3.0])
    return {
        "two numbers": few * 3 - 1,
        "two texts": np.array(["yes", "no"])[few % 2],
        "two booleans": few.astype(bool),
        "two floats": few.astype(float),
        "four texts": np.array(["d", "b", "c", "a"])[few],
        "four objects": np.array(["d", "b", "c", "a"], dtype=object)[few],
        "four numbers": np.array([7, -2, 0, 100])[few],
    }[kind]


def test_every_recipe_is_tested():
    tested = {class_name(estimator) for estimator in [*REGRESSORS, *POSITIVE_REGRESSORS, *CLASSIFIERS]}
    assert tested == set(RECIPES)


@pytest.mark.parametrize("estimator", REGRESSORS, ids=name)
def test_regressors(estimator):
    models = [fit(make_pipeline(StandardScaler(), estimator), *data(seed)) for seed in range(3)]
    check_family([*models, fit(estimator, *data())], features=FEATURES, rows=edge_rows())


@pytest.mark.parametrize("estimator", POSITIVE_REGRESSORS, ids=name)
def test_generalised_regressors(estimator):
    X, y = data()
    rows = edge_rows()
    rows = rows[~(np.abs(rows) > 1e3).any(axis=1) | np.isinf(rows).any(axis=1)]
    model = fit(make_pipeline(StandardScaler(), estimator), X, np.exp(y / 5))
    check_family([model], features=FEATURES, rows=rows)


@pytest.mark.parametrize("kind", ["two numbers", "two texts", "two booleans", "four texts", "four numbers"])
@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=name)
def test_classifiers(estimator, kind):
    models = [
        fit(make_pipeline(StandardScaler(), estimator), X, labelled(y, kind))
        for X, y in (data(seed) for seed in (0, 1))
    ]
    check_family(models, features=FEATURES, rows=edge_rows())


@pytest.mark.parametrize("kind", ["two numbers", "two texts", "two booleans", "two floats", "four objects"])
def test_liblinear_and_other_kinds_of_labels(kind):
    X, y = data()
    solver = "liblinear" if kind.startswith("two") else "lbfgs"
    check_family(
        [fit(linear_model.LogisticRegression(solver=solver), X, labelled(y, kind))], features=FEATURES, rows=edge_rows()
    )


@pytest.mark.parametrize("scheme", ["ovr", "multinomial"])
@pytest.mark.parametrize("kind", ["two texts", "four numbers"])
def test_logistic_regressions_of_older_releases(scheme, kind):
    """``multi_class`` is gone from recent releases; what they did is recomputed here."""
    X, y = data()
    model = fit(linear_model.LogisticRegression(), X, labelled(y, kind))
    model.multi_class = scheme
    decisions = model.decision_function(X)
    if scheme == "multinomial":
        decisions = np.stack([-decisions, decisions], axis=1) if decisions.ndim == 1 else decisions
        weights = np.exp(decisions - decisions.max(axis=1, keepdims=True))
    else:
        weights = 1 / (1 + np.exp(-decisions))
        weights = np.stack([1 - weights, weights], axis=1) if weights.ndim == 1 else weights
    stacked = stack([pack(model, FEATURES)])
    answers = score(frozen_block(stacked), X.T, np.array([[0, 0, len(X)]]), len(stacked.labels))
    np.testing.assert_allclose(answers.probabilities, weights / weights.sum(axis=1, keepdims=True), atol=1e-12)
    assert [stacked.labels[i] for i in answers.labels] == model.predict(X).tolist()


def test_weights_that_were_made_sparse():
    X, y = data()
    check_family([fit(linear_model.SGDClassifier(), X, y > 0).sparsify()], features=FEATURES, rows=edge_rows())


def test_models_fitted_on_single_precision():
    X, y = data()
    single = X.astype(np.float32)
    check_family(
        [fit(make_pipeline(StandardScaler(), linear_model.Ridge()), single, y.astype(np.float32))],
        features=FEATURES,
        rows=edge_rows(),
    )


def test_one_hot_models_with_different_categories_share_a_block():
    generator = np.random.default_rng(3)
    models = []
    for count in (2, 3, 4):
        texts = generator.choice([f"t{i * 2 + count}" for i in range(count)], size=60)
        frame = pl.DataFrame({"a": generator.normal(size=60), "b": texts})
        columns = make_column_transformer(
            (make_pipeline(SimpleImputer(), StandardScaler()), ["a"]), (OneHotEncoder(handle_unknown="ignore"), ["b"])
        )
        target = frame["a"].to_numpy() + np.array([float(text[1:]) for text in texts])
        models.append(fit(make_pipeline(columns, linear_model.Ridge()), frame, target))
    rows = pl.DataFrame({"b": [*(f"t{i}" for i in range(10)), None, "new"], "a": [None, *np.arange(11.0)]})
    check_family(models, features=["b", "a"], rows=rows)
    assert len({pack(model, ["b", "a"]).layout for model in models}) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.sampled_from([linear_model.Ridge(), linear_model.LogisticRegression(), linear_model.SGDClassifier()]),
    st.sampled_from([StandardScaler(), MinMaxScaler(clip=True), SimpleImputer(), "passthrough"]),
    st.integers(2, 5),
)
def test_random_models(seed, width, estimator, transformer, classes):
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(40, width)) * 10.0 ** generator.integers(-3, 4, size=width)
    y = np.arange(40) % classes
    model = fit(make_pipeline(transformer, estimator), X, y)
    rows = np.where(generator.random((30, width)) < 0.1, np.nan, generator.normal(size=(30, width)) * 10)
    check_family([model], features=[f"f{i}" for i in range(width)], rows=rows)


def test_huge_numbers_are_answered_or_marked():
    """Beyond 1e300 sums depend on their order; the exact sum is the truth, and what overflows is marked."""
    model = linear_model.LinearRegression()
    model.coef_, model.intercept_, model.n_features_in_ = np.array([1.0, 2.0, -1.0]), 0.5, 3
    block = frozen_block(stack([pack(model, ["a", "b", "c"])]))
    rows = np.array([[1e300, 0.0, 0.0], [1e308, 1e308, 0.0], [1e308, 0.0, 1e308], [1e300, 1e-300, -1e299]])
    answers = score(block, rows.T, np.array([[0, 0, 4]]), 0)
    assert answers.reasons.tolist() == [0, Reason.NOT_FINITE_ANSWER, 0, 0]
    np.testing.assert_allclose(answers.values[[0, 2, 3]], [1e300, 0.5, 1.1e300], rtol=1e-15)


def test_overflow_before_the_model_is_marked():
    X, y = data()
    model = fit(make_pipeline(StandardScaler(), linear_model.Ridge()), X * 1e-5, y)
    stacked = stack([pack(model, FEATURES)])
    rows = np.array([[1e307, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    answers = score(frozen_block(stacked), rows.T, np.array([[0, 0, 2]]), 0)
    assert answers.reasons.tolist() == [Reason.INFINITE_VALUE, 0]
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="infinity"):
        model.predict(rows[:1])


def test_an_exponential_that_overflows_is_marked():
    X, y = data()
    model = fit(linear_model.PoissonRegressor(), X, np.exp(y / 5))
    answers = score(frozen_block(stack([pack(model, FEATURES)])), np.full((4, 1), 1e6), np.array([[0, 0, 1]]), 0)
    assert answers.reasons[0] == Reason.NOT_FINITE_ANSWER or answers.values[0] < 1e-300


def test_equal_decisions_give_the_first_class():
    model = linear_model.LogisticRegression()
    model.coef_, model.intercept_, model.n_features_in_ = np.zeros((3, 2)), np.zeros(3), 2
    model.classes_ = np.array(["p", "q", "r"])
    stacked = stack([pack(model, ["a", "b"])])
    answers = score(frozen_block(stacked), np.ones((2, 1)), np.array([[0, 0, 1]]), 3)
    assert stacked.labels[answers.labels[0]] == model.predict(np.ones((1, 2)))[0] == "p"


def test_labels_and_probabilities_go_to_the_fleets_columns():
    X, y = data()
    one = fit(linear_model.LogisticRegression(), X, np.where(y > 0, "x", "z"))
    two = fit(linear_model.LogisticRegression(), X, np.where(y > 1, "w", "y"))
    stacked = stack([pack(one, FEATURES), pack(two, FEATURES)])
    assert stacked.labels == ("w", "x", "y", "z")
    block = stacked.block(class_map=np.array([5, 1, 3, 0], dtype=np.int32))
    answers = score(block, np.tile(X.T, 2), np.array([[0, 0, 80], [1, 80, 160]]), 6)
    assert set(answers.labels[:80]) == {0, 1}
    assert set(answers.labels[80:]) == {5, 3}
    np.testing.assert_allclose(answers.probabilities[:80, [1, 0]], one.predict_proba(X), atol=1e-12)
    assert np.isnan(answers.probabilities[:80, [2, 3, 4, 5]]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"coef_": np.array([1.0, np.nan])}, "coef_: has values that are not finite"),
        ({"intercept_": np.inf}, "intercept_: has values that are not finite"),
        ({"coef_": np.ones((2, 2))}, "2-d target"),
        ({"n_features_in_": 3}, "was fitted on 3 columns"),
    ],
)
def test_what_cannot_be_packed_is_named(change, words):
    model = linear_model.Ridge()
    model.coef_, model.intercept_, model.n_features_in_ = np.ones(2), 0.0, 2
    for attribute, value in change.items():
        setattr(model, attribute, value)
    with pytest.raises(UnsupportedEstimator, match=words):
        pack(model, ["a", "b"])


def test_two_dimensional_targets_and_unfitted_models_are_refused():
    X, y = data()
    with pytest.raises(UnsupportedEstimator, match=r"Ridge.*2-d target"):
        pack(fit(linear_model.Ridge(), X, np.stack([y, y], axis=1)), FEATURES)
    with pytest.raises(UnsupportedEstimator, match=r"step 'ridge', Ridge: is not fitted"):
        pack(make_pipeline(linear_model.Ridge()), FEATURES)
    many = np.stack([y > 0, y > 1], axis=1).astype(int)
    with pytest.raises(UnsupportedEstimator, match="multilabel"):
        pack(fit(linear_model.RidgeClassifier(), X, many), FEATURES)


def test_a_subclass_is_not_trusted():
    class Ridge(linear_model.Ridge):
        pass

    with pytest.raises(UnsupportedEstimator, match="no family can pack"):
        pack(fit(Ridge(), *data()), FEATURES)


def test_kernel_marks_rows_and_leaves_prefilled_answers():
    """A marked row's neighbours are answered; a regression touches neither labels nor probabilities."""
    model = fit(linear_model.Ridge(), *data())
    block = frozen_block(stack([pack(model, FEATURES)]))
    rows = edge_rows()
    answers = score(block, np.ascontiguousarray(rows.T), np.array([[0, 0, len(rows)]]), 0)
    blank = blank_answers(len(rows), 0)
    np.testing.assert_array_equal(answers.labels, blank.labels)
    assert (answers.reasons != 0).sum() == (~np.isfinite(rows).all(axis=1)).sum()
    assert answers.culprits[answers.reasons != 0].tolist() == [0, 2, 2, 3]
    assert family("affine").name == block.layout.family
    assert block.layout.task is Task.REGRESSION
    assert as_frame(rows, FEATURES).shape == rows.shape
