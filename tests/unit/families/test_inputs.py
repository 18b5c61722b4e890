"""The column-transform program gives what scikit-learn's transformers give, to the bit."""

import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    RobustScaler,
    StandardScaler,
)

from shoal.families import pack, validate
from shoal.families.inputs import Inputs
from shoal.families.stacking import stack
from shoal.testing.programs import compiled_inputs, reference_inputs
from shoal.testing.rows import as_batch_columns, as_fitted, as_frame
from shoal.types import FeatureKind, Reason, Task

NAMES = ["a", "b", "c", "d"]


def fitted(*steps, data, named=False):
    """A pipeline of the steps with a linear regression, fitted on rows that are not missing at its end."""
    pipeline = make_pipeline(*steps, LinearRegression())
    transformer = pipeline[:-1]
    X = as_frame(data, NAMES[: data.shape[1]]) if named else data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Z = transformer.fit_transform(X)
        Z = np.nan_to_num(np.asarray(Z.todense() if hasattr(Z, "todense") else Z, dtype=float))
        pipeline[-1].fit(Z, np.arange(len(Z), dtype=float))
    return pipeline


def check_inputs(pipeline, rows, features=None):
    """Compare compiled and reference inputs with the pipeline's own, bit by bit; returns the marks."""
    features = features or NAMES[: rows.shape[1]]
    frame = as_frame(rows, features)
    inputs = Inputs(pipeline, features)
    positions, width = inputs.positions, inputs.width
    model = inputs.model(
        family="affine",
        task=Task.REGRESSION,
        parameters={"coef": np.zeros((1, width)), "intercept": np.zeros(1)},
        static={"link": "identity", "outputs": 1},
    )
    stacked = stack([model])
    block = stacked.block()
    validate(block)
    X = as_batch_columns(frame, stacked)
    Z, reasons, culprits = compiled_inputs(block, 0, X)
    good = reasons == 0
    np.testing.assert_array_equal(reference_inputs(block, 0, X)[:, good], Z[:, good])
    padding = np.setdiff1d(np.arange(width), positions)
    assert (Z[padding][:, good] == 0).all()
    if good.any():
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            expected = pipeline[:-1].transform(as_fitted(frame.filter(good), pipeline))
        expected = expected.toarray() if hasattr(expected, "toarray") else np.asarray(expected)
        np.testing.assert_array_equal(Z[positions][:, good].T, expected.astype(float))
    return reasons, culprits


numbers = st.one_of(
    st.floats(-1e6, 1e6),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e150, -1e150, float("nan")]),
)


@st.composite
def tables(draw, columns=3):
    flat = draw(st.lists(numbers, min_size=8 * columns, max_size=8 * columns))
    data = np.array(flat).reshape(8, columns)
    data[0] = np.where(np.isnan(data[0]), 1.0, data[0])  # a column without any value has tests of its own
    return data


SCALERS = st.sampled_from([
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    StandardScaler(with_mean=False, with_std=False),
    MinMaxScaler(),
    MinMaxScaler(feature_range=(-3, 0.1), clip=True),
    MaxAbsScaler(),
    RobustScaler(),
    RobustScaler(with_centering=False, quantile_range=(10, 60)),
    RobustScaler(with_scaling=False),
    SimpleImputer(),
    SimpleImputer(strategy="median", add_indicator=True),
    SimpleImputer(strategy="most_frequent"),
    SimpleImputer(strategy="constant", fill_value=7.5),
    "passthrough",
    FunctionTransformer(),
    Pipeline([("inner", StandardScaler()), ("nothing", None), ("outer", MinMaxScaler())]),
])  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(tables(), tables(), st.lists(SCALERS, min_size=1, max_size=4))
def test_numeric_transformers_in_any_order(training, rows, steps):
    from sklearn.base import clone

    steps = [step if isinstance(step, str) else clone(step) for step in steps]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        pipeline = fitted(*steps, data=training)
    check_inputs(pipeline, rows)


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler(), MaxAbsScaler(), RobustScaler()], ids=str)
def test_constant_columns(scaler):
    training = np.array([[0.1, 0.0, -3.0, 1e300], [0.1, 0.0, -3.0, 1e300]])
    rows = np.array([[0.1, 0.0, -3.0, 1e300], [0.3, -0.0, 5e-324, -1e300], [np.nan, 1.0, 7.0, 0.0]])
    check_inputs(fitted(scaler, data=training), rows)


@pytest.mark.parametrize("strategy", ["mean", "median", "most_frequent", "constant"])
@pytest.mark.parametrize("indicator", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_imputer_with_a_column_that_was_never_observed(strategy, indicator, keep):
    training = np.array([[1.0, np.nan, 3.0], [2.0, np.nan, np.nan], [2.0, np.nan, 5.0]])
    imputer = SimpleImputer(strategy=strategy, add_indicator=indicator, keep_empty_features=keep)
    rows = np.array([[np.nan, np.nan, np.nan], [1.0, 2.0, 3.0], [1.0, np.nan, 3.0]])
    check_inputs(fitted(imputer, StandardScaler(), data=training), rows)


@pytest.mark.parametrize("indicator", [False, True])
def test_imputer_with_a_number_that_means_missing(indicator):
    training = np.array([[1.0, -9.0], [2.0, 4.0], [-9.0, 6.0]])
    imputer = SimpleImputer(missing_values=-9, add_indicator=indicator)
    rows = np.array([[-9.0, -9.0], [1.0, 2.0], [np.nan, 3.0]])
    reasons, culprits = check_inputs(fitted(imputer, data=training), rows)
    assert reasons.tolist() == [0, 0, Reason.MISSING_VALUE]
    assert culprits[2] == 0


def test_imputer_fitted_on_integers_fills_with_integers():
    pipeline = fitted(
        SimpleImputer(missing_values=-1, strategy="most_frequent"), data=np.array([[1, 2], [-1, 2], [1, 5]])
    )
    check_inputs(pipeline, np.array([[-1.0, -1.0], [3.5, 2.0]]))


def test_text_imputer_before_one_hot():
    training = np.array([["x", "u"], ["y", None], [None, "u"], ["y", "v"]], dtype=object)
    steps = [SimpleImputer(missing_values=None, strategy="most_frequent", add_indicator=True), OneHotEncoder()]
    rows = np.array([["x", None], [None, "v"], ["y", "u"]], dtype=object)
    reasons, _ = check_inputs(fitted(*steps, data=training), rows)
    assert not reasons.any()


def test_text_that_means_missing():
    training = np.array([["x"], ["y"], ["NA"], ["y"]], dtype=object)
    steps = [
        SimpleImputer(missing_values="NA", strategy="constant", fill_value="none"),
        OneHotEncoder(sparse_output=False),
    ]
    rows = np.array([["x"], ["NA"], ["none"], ["z"]], dtype=object)
    reasons, culprits = check_inputs(fitted(*steps, data=training), rows)
    assert reasons.tolist() == [0, 0, 0, Reason.UNKNOWN_CATEGORY]
    assert culprits[3] == 0


CATEGORIES = {
    "text": (["v", "x", "x", "y", "zz", "x", "y", "v"], ["x", "v", "zz", "y", "new", None]),
    "text or missing": (["v", None, "x", "y", None, "x", "y", "v"], [None, "v", "y", "new"]),
    "numbers": ([1.0, 2.5, -3.0, 1.0, 2.5, 2.5, 1.0, 1e9], [1.0, -3.0, 1e9, 7.0, np.nan]),
    "numbers or missing": ([1.0, np.nan, -3.0, 1.0, np.nan, -0.0, 1.0, 1e9], [np.nan, 0.0, 1e9, 7.0]),
    "two numbers": ([0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0]),
    "one text": (["only"] * 8, ["only", "other", None]),
}  # fmt: skip


@pytest.mark.parametrize("values", CATEGORIES)
@pytest.mark.parametrize("drop", [None, "first", "if_binary"])
@pytest.mark.parametrize("unknown", ["error", "ignore", "infrequent_if_exist", "warn"])
@pytest.mark.parametrize("grouping", [{}, {"min_frequency": 2}, {"max_categories": 3}])
def test_one_hot(values, drop, unknown, grouping):
    training, rows = (np.array(part, dtype=_dtype(part)) for part in CATEGORIES[values])
    second = np.array(["m", "n"] * 4, dtype=object) if training.dtype == object else training[::-1]
    table = np.stack([training, second], axis=1)
    pipeline = fitted(OneHotEncoder(drop=drop, handle_unknown=unknown, **grouping), data=table)
    rows = np.stack([rows, second[: len(rows)]], axis=1)
    reasons, _ = check_inputs(pipeline, rows)
    assert (reasons != 0).sum() == sum(_encoder_refuses(pipeline, row) for row in rows)


def _dtype(values):
    return object if any(isinstance(value, str) for value in values) else float


def _encoder_refuses(pipeline, row):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pipeline[:-1].transform(row[None])
        except ValueError:
            return True
    return False


def test_one_hot_drops_named_categories_and_takes_unsorted_lists():
    encoder = OneHotEncoder(categories=[["z", "a", "m"]], drop=["a"])
    training = np.array([["a"], ["z"], ["m"]], dtype=object)
    check_inputs(fitted(encoder, data=training), training)


def test_one_hot_of_booleans():
    encoder = OneHotEncoder()
    data = np.array([[True, False], [False, False], [True, True]])
    check_inputs(fitted(encoder, data=data), data.astype(float))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c", "", "é", "Z", "aa"]), min_size=10, max_size=10),
    st.lists(st.one_of(st.none(), st.text(max_size=2)), min_size=5, max_size=5),
    tables(columns=2),
)
def test_mixed_frames(texts, unseen, table):
    training = _mixed(texts[:8], table)
    rows = _mixed([*unseen, *texts[:3]], table)
    columns = ColumnTransformer([
        ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["d", "b"]),
        ("texts", OneHotEncoder(handle_unknown="ignore"), ["c"]),
    ])  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = make_pipeline(columns, LinearRegression())
        Z = columns.fit_transform(training)
        pipeline[-1].fit(Z.toarray() if hasattr(Z, "toarray") else Z, range(8))
    check_inputs(pipeline, rows, features=["b", "c", "d"])


def _mixed(texts, table):
    schema = {"b": pl.Float64, "c": pl.String, "d": pl.Float64}
    return pl.DataFrame({"b": table[:, 0], "c": list(texts), "d": table[:, 1]}, schema=schema)


SELECTIONS = {
    "names": ["c", "a"],
    "one name": ["b"],
    "positions": [2, 0],
    "negative positions": [-1, 1],
    "slice": slice(1, 3),
    "slice of names": slice("b", "c"),
    "open slice": slice(None, 2),
    "mask": [True, False, True, False],
    "mask array": np.array([False, True, True, False]),
    "callable": lambda frame: [name for name in frame.columns if name in "bd"],
}


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("remainder", ["drop", "passthrough", MinMaxScaler()])
def test_column_selections(selection, remainder):
    data = np.random.default_rng(1).normal(size=(9, 4))
    transformer = ColumnTransformer(
        [("chosen", StandardScaler(), SELECTIONS[selection]), ("again", "passthrough", [0]), ("off", "drop", [1])],
        remainder=remainder,
    )
    check_inputs(fitted(transformer, RobustScaler(), data=data, named=True), data)


def test_nested_column_transformers_on_derived_columns():
    data = np.random.default_rng(2).integers(0, 3, size=(12, 4)).astype(float)
    inner = make_column_transformer((OneHotEncoder(), [0]), (StandardScaler(), [1, 0]), remainder="passthrough")
    outer = make_column_transformer((inner, [0, 2]), (make_pipeline(MinMaxScaler(), OneHotEncoder()), [1]))
    again = make_column_transformer((MaxAbsScaler(), [1, 3]), (StandardScaler(with_mean=False), [1, 2]))
    check_inputs(fitted(outer, again, data=data), data)


def test_sparse_columns_are_multiplied_by_the_reciprocal():
    data = np.random.default_rng(3).integers(0, 5, size=(40, 2)).astype(float) * 0.7
    columns = ColumnTransformer([("one", OneHotEncoder(), [0]), ("rest", "passthrough", [1])], sparse_threshold=1.0)
    pipeline = fitted(columns, StandardScaler(with_mean=False), MaxAbsScaler(), data=data)
    assert pipeline[0].sparse_output_
    check_inputs(pipeline, data)


def test_features_are_taken_by_name_in_any_order():
    data = np.random.default_rng(4).normal(size=(6, 3))
    pipeline = fitted(StandardScaler(), data=data, named=True)
    frame = as_frame(data, ["a", "b", "c"])
    check_inputs(pipeline, frame, features=["c", "a", "b"])
    assert [f.name for f in pack(pipeline, ["c", "a", "b"]).layout.features] == ["c", "a", "b"]


def test_features_that_are_not_used_are_left_out():
    data = np.random.default_rng(5).normal(size=(6, 3))
    pipeline = fitted(make_column_transformer((StandardScaler(), [2])), data=data)
    assert [f.name for f in pack(pipeline, ["a", "b", "c"]).layout.features] == ["c"]


def test_kinds_of_features():
    pipeline = make_pipeline(
        make_column_transformer((OneHotEncoder(), [0, 2]), remainder="passthrough"), LinearRegression()
    ).fit(np.array([["x", 1.0, 3], ["y", 2.0, 4]], dtype=object), [0.0, 1.0])
    kinds = [feature.kind for feature in pack(pipeline, ["a", "b", "c"]).layout.features]
    assert kinds == [FeatureKind.CATEGORY, FeatureKind.NUMERIC, FeatureKind.NUMERIC]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_models_with_different_category_counts_share_layouts(one, other):
    layouts = set()
    for count in (one, other):
        texts = np.array([[f"t{i}"] for i in range(count)], dtype=object)
        layouts.add(pack(fitted(OneHotEncoder(), StandardScaler(with_mean=False), data=texts), ["a"]).layout)
    same = max(4, 1 << (one - 1).bit_length()) == max(4, 1 << (other - 1).bit_length())
    assert (len(layouts) == 1) == same


def test_infinite_values_are_marked():
    data = np.random.default_rng(6).normal(size=(6, 3))
    rows = np.array([[0, 1, np.inf], [0, -np.inf, np.inf], [1, 2, 3]])
    reasons, culprits = check_inputs(fitted(StandardScaler(), data=data), rows)
    assert reasons.tolist() == [Reason.INFINITE_VALUE, Reason.INFINITE_VALUE, 0]
    assert culprits.tolist()[:2] == [2, 1]


def test_float32_rounds_and_marks_overflow():
    inputs = Inputs(LinearRegression().fit(np.eye(2), [0.0, 1.0]), ["a", "b"])
    inputs.float32()
    inputs.require()
    block = _block(inputs)
    X = np.array([[0.1, 1e39, 16777217.0, np.nan, 0.0], [1.0, 0.0, -1e-50, 1.0, -1e39]])
    Z, reasons, culprits = compiled_inputs(block, 0, X)
    large, missing = Reason.TOO_LARGE_FOR_FLOAT32, Reason.MISSING_VALUE
    assert reasons.tolist() == [0, large, 0, missing, large]
    assert culprits[[1, 3, 4]].tolist() == [0, 0, 1]
    np.testing.assert_array_equal(Z[:, [0, 2]], X[:, [0, 2]].astype(np.float32).astype(float))


def test_encode_gives_positions():
    inputs = Inputs(LinearRegression().fit(np.eye(2), [0.0, 1.0]), ["a", "b"])
    inputs.encode(1, np.array(["pear", "apple", "fig"], dtype=object))
    inputs.encode(0, np.array([3.0, 1.0, np.nan, 2.0]))
    stacked = stack([_model(inputs)])
    frame = pl.DataFrame({"a": [1.0, 2.0, 3.0, None, 9.0], "b": ["fig", "pear", "apple", None, "kiwi"]})
    Z, reasons, _ = compiled_inputs(stacked.block(), 0, as_batch_columns(frame, stacked))
    np.testing.assert_array_equal(Z, [[1, 3, 0, np.nan, np.nan], [2, 0, 1, np.nan, np.nan]])
    assert not reasons.any()


def test_spread_puts_zeros_at_padding():
    texts = np.array([["x", "u"], ["y", "u"], ["z", "v"]], dtype=object)
    inputs = Inputs(fitted(OneHotEncoder(), data=texts), ["a", "b"])
    assert inputs.positions.tolist() == [0, 1, 2, 4, 5]
    spread = inputs.spread(np.arange(1.0, 11.0).reshape(2, 5))
    np.testing.assert_array_equal(spread, [[1, 2, 3, 0, 4, 5, 0, 0], [6, 7, 8, 0, 9, 10, 0, 0]])
    np.testing.assert_array_equal(inputs.spread(np.arange(1.0, 11.0).reshape(2, 5).T, axis=0), spread.T)


def _model(inputs):
    return inputs.model(
        family="affine",
        task=Task.REGRESSION,
        parameters={"coef": np.zeros((1, inputs.width)), "intercept": np.zeros(1)},
        static={"link": "identity", "outputs": 1},
    )


def _block(inputs):
    block = stack([_model(inputs)]).block()
    validate(block)
    return block
