"""What cannot be packed is refused with the name of the part that stopped it."""

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from shoal.errors import UnsupportedEstimator
from shoal.families import pack

X = np.random.default_rng(0).normal(size=(20, 3))
Y = X[:, 0]
TEXTS = np.array([["x", "y"] * 10, ["u", "v"] * 10], dtype=object).T
NAMES = ["a", "b", "c"]


class OwnScaler(StandardScaler):
    """A subclass could do anything."""


def refusal(estimator, features=NAMES):
    with pytest.raises(UnsupportedEstimator) as caught:
        pack(estimator, features)
    return str(caught.value)


def test_unknown_transformers_are_named_with_their_step():
    words = refusal(Pipeline([("fine", StandardScaler()), ("less", PCA()), ("end", Ridge())]).fit(X, Y))
    assert words.startswith("step 'less' (PCA): sklearn.decomposition.PCA is not among the transformers")
    assert "StandardScaler" in words


def test_nested_parts_are_named_by_their_path():
    inner = Pipeline([("shift", FunctionTransformer(np.sqrt, validate=True))])
    columns = ColumnTransformer([("roots", inner, [0])])
    words = refusal(Pipeline([("columns", columns), ("end", Ridge())]).fit(np.abs(X), Y))
    assert words.startswith(
        "step 'columns' (ColumnTransformer), transformer 'roots', step 'shift' (FunctionTransformer):"
    )


def test_subclasses_are_not_trusted():
    assert "OwnScaler" in refusal(make_pipeline(OwnScaler(), Ridge()).fit(X, Y))


def test_unknown_final_estimators():
    assert "no family can pack" in refusal(make_pipeline(StandardScaler(), PCA()).fit(X))
    assert "predicts nothing" in refusal(make_pipeline(StandardScaler(), "passthrough").fit(X))
    assert "no family can pack builtins.dict" in refusal({})


def test_feature_names_must_be_the_fitted_ones():
    import polars as pl

    model = make_pipeline(StandardScaler(), Ridge()).fit(pl.DataFrame(X, schema=NAMES), Y)
    assert "lacking ['c']" in refusal(model, ["a", "b"])
    assert "unknown to the estimator ['d']" in refusal(model, ["a", "b", "c", "d"])
    assert "lacking ['c'], unknown to the estimator ['z']" in refusal(model, ["a", "b", "z"])
    assert "name a column twice" in refusal(model, ["a", "b", "b"])


def test_feature_counts_must_fit():
    model = make_pipeline(StandardScaler(), Ridge()).fit(X, Y)
    assert "was fitted on 3 columns, but 2 reach it" in refusal(model, ["a", "b"])
    assert "was fitted on 3 columns, but 4 reach it" in refusal(Ridge().fit(X, Y), ["a", "b", "c", "d"])


def test_unfitted_transformers():
    assert "StandardScaler): is not fitted" in refusal(make_pipeline(StandardScaler(), Ridge()))


@pytest.mark.parametrize("attribute", ["mean_", "scale_"])
def test_numbers_that_are_not_finite(attribute):
    model = make_pipeline(StandardScaler(), Ridge()).fit(X, Y)
    setattr(model[0], attribute, np.array([1.0, np.nan, 1.0]))
    assert f"step 'standardscaler' (StandardScaler), {attribute}: is nan" in refusal(model)


def test_parameters_that_are_not_packed_are_named():
    weights = ColumnTransformer([("one", StandardScaler(), [0, 1])], transformer_weights={"one": 2.0})
    assert "parameter transformer_weights" in refusal(make_pipeline(weights, Ridge()).fit(X, Y))
    encoder = OneHotEncoder(dtype=np.float32)
    assert "parameter dtype" in refusal(make_pipeline(encoder, Ridge()).fit(TEXTS, Y), ["a", "b"])
    imputer = make_pipeline(SimpleImputer(), Ridge()).fit(X, Y)
    imputer[0].set_params(strategy="constant", fill_value=np.nan)
    assert "fill_value: is missing itself" in refusal(imputer)
    pipeline = make_pipeline(StandardScaler(), Ridge()).fit(X, Y)
    pipeline.transform_input = ["sample_weight"]
    assert "transform_input" in refusal(pipeline)


def test_text_that_reaches_the_model():
    columns = make_column_transformer((OneHotEncoder(), [0]), ("passthrough", [0, 1]))
    model = make_pipeline(columns, Ridge())
    data = np.array([["1", "2"], ["3", "4"]], dtype=object)
    words = refusal(model.fit(data, [0.0, 1.0]), ["a", "b"])
    assert "feature 'a': is used as text in one place and as a number in another" in words


def test_categories_that_mix_or_double():
    both = np.array([["x"], [None], [np.nan], ["y"]], dtype=object)
    model = make_pipeline(OneHotEncoder(), Ridge()).fit(both, [0.0, 1.0, 2.0, 3.0])
    assert "None and NaN as two categories" in refusal(model, ["a"])
    model = make_pipeline(OneHotEncoder(), Ridge()).fit(TEXTS[:, :1], Y)
    model[0].categories_ = [np.array(["x", 1.0], dtype=object)]
    assert "mixes text and numbers" in refusal(model, ["a"])
    model[0].categories_ = [np.array([b"x", b"y"], dtype=object)]
    assert "only text, finite numbers and booleans" in refusal(model, ["a"])
    model[0].categories_ = [np.array([2**60 + 1, 2**60 + 2], dtype=object)]
    assert "only text, finite numbers and booleans" in refusal(model, ["a"])


def test_column_selections_that_do_not_exist():
    model = make_pipeline(make_column_transformer((StandardScaler(), [0, 1])), Ridge()).fit(X, Y)
    name, transformer, _ = model[0].transformers_[0]
    for selection, words in [
        (["z"], "'z', which it was not"),
        ([7], "7 of 3"),
        (None, "NoneType"),
        ([1.5], "1.5 of 3"),
    ]:
        model[0].transformers_ = [(name, transformer, selection)]
        assert words in refusal(model)


def test_errors_keep_their_part():
    with pytest.raises(UnsupportedEstimator) as caught:
        pack(Pipeline([("less", PCA()), ("end", Ridge())]).fit(X, Y), NAMES)
    assert caught.value.part == "step 'less' (PCA)"
