"""Candidates become the estimators that one would write by hand."""

from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler
from training_setup import spec

from shoal.errors import InvalidSpec
from shoal.training.candidates import Choice, Estimator, build, choices, random_parameters
from shoal.training.loading import load
from shoal.training.spec import Candidate
from shoal.types import Feature, FeatureKind

FEATURES = (
    Feature(name="x", kind=FeatureKind.NUMERIC),
    Feature(name="colour", kind=FeatureKind.CATEGORY),
    Feature(name="z", kind=FeatureKind.NUMERIC),
)


def made(**fields: object) -> Estimator:
    candidate = msgspec.convert({"name": "it", **fields}, Candidate)
    return build(choices([candidate])[0], FEATURES)


def test_one_step_is_no_pipeline() -> None:
    estimator = made(steps=["sklearn.linear_model:Ridge"])
    assert isinstance(estimator, Ridge)
    assert made(steps=[{"sklearn.linear_model.Ridge": {"alpha": 7}}]).get_params()["alpha"] == 7


def test_a_grid_is_every_combination_in_order() -> None:
    candidate = Candidate(
        name="it",
        steps=("sklearn.preprocessing.StandardScaler", "sklearn.linear_model.Ridge"),
        grid={"ridge__alpha": [0.1, 1], "standardscaler__with_mean": [True, False]},
    )
    found = choices([candidate, Candidate(name="other", steps=("sklearn.linear_model.Lasso",))])
    assert [tuple(choice.parameters.values()) for choice in found] == [
        (0.1, True), (0.1, False), (1, True), (1, False), ()
    ]  # fmt: skip
    assert str(found[1]) == 'it {"ridge__alpha": 0.1, "standardscaler__with_mean": false}'
    assert str(found[4]) == "other"
    parameters = build(found[1], FEATURES).get_params()
    assert (parameters["ridge__alpha"], parameters["standardscaler__with_mean"]) == (0.1, False)


def test_columns_are_a_column_transformer() -> None:
    encoder = {"sklearn.preprocessing.OneHotEncoder": {"handle_unknown": "ignore"}}
    estimator = made(
        steps=[
            {"columns": [
                {"features": "texts", "steps": [encoder]},
                {"features": "numbers", "steps": "sklearn.preprocessing.StandardScaler"},
                {"features": ["z"], "steps": "passthrough"},
            ]},
            "sklearn.linear_model.Ridge",
        ]
    )  # fmt: skip
    by_hand = Pipeline([
        ("columns", ColumnTransformer([
            ("texts", OneHotEncoder(handle_unknown="ignore"), [1]),
            ("numbers", StandardScaler(), [0, 2]),
            ("third", "passthrough", [2]),
        ])),
        ("ridge", Ridge()),
    ])  # fmt: skip
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"x": rng.normal(size=40), "colour": rng.choice(["r", "g"], 40), "z": rng.normal(size=40)})
    y = rng.normal(size=40)
    np.testing.assert_array_equal(estimator.fit(frame, y).predict(frame), by_hand.fit(frame, y).predict(frame))
    assert "columntransformer__texts__handle_unknown" in estimator.get_params()


def test_lists_of_numbers_are_tuples_for_scikit_learn() -> None:
    estimator = made(steps=[{"sklearn.preprocessing.MinMaxScaler": {"feature_range": [0, 2]}}])
    assert isinstance(estimator, MinMaxScaler)
    assert estimator.get_params()["feature_range"] == (0, 2)


def test_what_needs_a_seed_is_known() -> None:
    forest = made(steps=["sklearn.preprocessing.StandardScaler", "sklearn.ensemble.RandomForestRegressor"])
    assert random_parameters(forest) == ("randomforestregressor__random_state",)
    fixed = made(steps=[{"sklearn.ensemble.RandomForestRegressor": {"random_state": 1}}])
    assert random_parameters(fixed) == ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": ["sklearn.linear_model.Rigde"]}, "'sklearn.linear_model.Rigde' cannot be imported"),
        ({"steps": ["Ridge"]}, "cannot be imported"),
        ({"steps": ["math.pi"]}, "neither a class nor a function"),
        ({"steps": ["collections.Counter"]}, "no scikit-learn estimator"),
        ({"steps": [{"sklearn.linear_model.Ridge": {"alhpa": 1}}]}, "it takes alpha"),
        ({"steps": [{"sklearn.linear_model.Ridge": 3}]}, "must be fields"),
        ({"steps": [{"a.B": {}, "c.D": {}}]}, "one path with its parameters"),
        ({"steps": ["sklearn.linear_model.Ridge"], "grid": {"ridge__alpha": [1]}}, "did you mean alpha?"),
        ({"steps": ["sklearn.linear_model.Ridge"], "grid": {"depth": [1]}}, "it has alpha"),
        ({"steps": [{"columns": []}]}, "'columns' is a list"),
        ({"steps": [{"columns": [{"features": "texts"}]}]}, "has 'features' and 'steps'"),
        ({"steps": [{"columns": [{"features": ["w"], "steps": ["a"]}]}]}, "'a' cannot be imported"),
        ({"steps": [{"columns": [{"features": ["w"], "steps": "passthrough"}]}]}, "'w', which is not among"),
    ],
)
def test_mistakes_are_named_with_the_candidate(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        made(**fields)
    assert words in str(error.value)
    assert "candidate 'it'" in str(error.value)


def test_a_choice_without_grid_says_only_its_name() -> None:
    choice = Choice(candidate=Candidate(name="it", steps=("a.B",)), parameters={})
    assert (str(choice), choice.parameters_text) == ("it", "")


def test_the_columns_step_of_the_reference_can_be_built() -> None:
    reference = (Path(__file__).parents[3] / "docs" / "reference.md").read_text()
    (example,) = (part.partition("```")[0] for part in reference.split("```yaml\n")[1:] if "columns:" in part)
    document = yaml.safe_load(example)
    kinds = {"carrier": FeatureKind.CATEGORY}
    features = [Feature(name=name, kind=kinds.get(name, FeatureKind.NUMERIC)) for name in document["features"]]
    read = load(spec(Path("x"), features=document["features"], candidates=document["candidates"]))
    estimators = [build(choice, features) for choice in choices(read.candidates)]
    assert [estimator.get_params()["ridge__alpha"] for estimator in estimators] == [0.1, 1, 10]
    assert "columntransformer__texts__min_frequency" in estimators[0].get_params()
