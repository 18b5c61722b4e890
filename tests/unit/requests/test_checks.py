"""Checks of inputs and outputs against a plain reading of their words."""

import datetime as dt
import math
from collections.abc import Mapping

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidSpec
from shoal.requests.checks import Checks
from shoal.requests.loading import load
from shoal.requests.rules import Rules
from shoal.requests.spec import FleetSchema
from shoal.types import Feature, FeatureKind, KeyColumn, KeyType, Task

SCHEMA = FleetSchema(
    keys=(KeyColumn(name="site", type=KeyType.STRING), KeyColumn(name="day", type=KeyType.DATE)),
    features=(Feature(name="temp", kind=FeatureKind.NUMERIC), Feature(name="mode", kind=FeatureKind.CATEGORY)),
    task=Task.REGRESSION,
)


def checks(**fields: object) -> Checks:
    spec = load({"checks": fields})
    return Checks(spec.checks, SCHEMA, Rules(spec, SCHEMA).outputs)


def rows(**columns: list[object]) -> dict[str, pl.Series]:
    height = len(next(iter(columns.values())))
    usual: dict[str, list[object]] = {
        "site": ["a"] * height, "day": [dt.date(2026, 1, 1)] * height, "temp": [1.0] * height, "mode": ["x"] * height,
    }  # fmt: skip
    return pl.DataFrame({**usual, **columns}, schema_overrides=SCHEMA.inputs).to_dict()


@pytest.mark.parametrize(
    ("column", "check", "values", "expected"),
    [
        ("temp", {"min": -1, "max": 1}, [-1.0, 1.0, -1.5, 1.5, None, math.nan, math.inf],
         {2: "'temp' is -1.5, below -1", 3: "'temp' is 1.5, above 1", 6: "'temp' is inf, above 1"}),
        ("temp", {"not_null": True}, [1.0, None, math.nan], {1: "'temp' is missing", 2: "'temp' is missing"}),
        ("temp", {"type": "integer"}, [1.0, 1.5, None], {1: "'temp' is 1.5, no integer"}),
        ("temp", {"one_of": [1, 2]}, [1.0, 3.0, None], {1: "'temp' is 3, none of 1, 2"}),
        ("mode", {"one_of": ["x", "y"]}, ["x", "z", None], {1: "'mode' is 'z', none of 'x', 'y'"}),
        ("mode", {"not_null": True}, ["x", None], {1: "'mode' is missing"}),
        ("mode", {"type": "number"}, ["1.5", "z", None], {1: "'mode' is 'z', no number"}),
        ("mode", {"pattern": "[a-z]|7"}, ["x", "xy", "7", "77", None],
         {1: "'mode' is 'xy', which does not match '[a-z]|7'", 3: "'mode' is '77', which does not match '[a-z]|7'"}),
        ("site", {"one_of": ["a"]}, ["a", "b"], {1: "'site' is 'b', none of 'a'"}),
        ("day", {"one_of": ["2026-01-01"]}, [dt.date(2026, 1, 1), dt.date(2026, 1, 2)],
         {1: "'day' is 2026-01-02, none of '2026-01-01'"}),
    ],
)  # fmt: skip
def test_rows_that_are_not_allowed_are_named(
    column: str, check: Mapping[str, object], values: list[object], expected: Mapping[int, str]
) -> None:
    found = checks(inputs={column: check}).inputs(rows(**{column: values}))
    assert found is not None
    assert found.reasons == expected
    assert found.rows.tolist() == [row in expected for row in range(len(values))]


def test_the_first_check_that_fails_is_told_and_others_cost_nothing() -> None:
    both = checks(inputs={"temp": {"max": 0}, "mode": {"one_of": ["y"]}})
    found = both.inputs(rows(temp=[5.0, -1.0, -1.0], mode=["x", "x", "y"]))
    assert found is not None
    assert found.reasons == {0: "'temp' is 5, above 0", 1: "'mode' is 'x', none of 'y'"}
    assert both.inputs(rows(temp=[-5.0], mode=["y"])) is None
    assert both.inputs(rows(temp=[], mode=[])) is None


def test_a_number_sent_as_text_is_looked_at_as_a_number() -> None:
    texts = {**rows(temp=[1.0, 1.0, 1.0]), "temp": pl.Series("temp", ["2", "20", "abc"])}
    found = checks(inputs={"temp": {"max": 10, "type": "number"}}).inputs(texts)
    assert found is not None
    assert found.reasons == {1: "'temp' is '20', above 10", 2: "'temp' is 'abc', no number"}


def test_outputs_are_checked_where_there_is_an_answer() -> None:
    found = checks(outputs={"prediction": {"min": 0, "not_null": True}}).outputs(
        {"prediction": pl.Series("prediction", [1.0, -2.0, None])}
    )
    assert found is not None
    assert found.reasons == {1: "'prediction' is -2, below 0"}


def test_probabilities_can_be_checked_by_label() -> None:
    schema = FleetSchema(keys=(), features=SCHEMA.features, task=Task.CLASSIFICATION, labels=("late", "ok"))
    spec = load({"checks": {"outputs": {"probability_late": {"max": 0.9}}}})
    compiled = Checks(spec.checks, schema, Rules(spec, schema).outputs)
    chances = pl.Series([[0.95, 0.05], [0.5, 0.5], None], dtype=pl.Array(pl.Float64, 2))
    found = compiled.outputs(pl.DataFrame({"prediction": ["late", "ok", None], "probability": chances}).to_dict())
    assert found is not None
    assert found.reasons == {0: "'probability_late' is 0.95, above 0.9"}


@given(st.lists(st.floats(width=64) | st.none(), max_size=20), st.floats(-10, 0), st.floats(0, 10))
def test_ranges_are_those_of_a_loop(values: list[float | None], least: float, most: float) -> None:
    found = checks(inputs={"temp": {"min": least, "max": most}}).inputs(rows(temp=list(values)))
    expected = {i for i, v in enumerate(values) if v is not None and not math.isnan(v) and not least <= v <= most}
    assert set(found.reasons if found else ()) == expected


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"inputs": {"tmp": {"min": 1}}}, "field 'checks.inputs.tmp': the fleet has no such column; it has site, day"),
        ({"inputs": {"mode": {"min": 1}}}, "only numbers have a min and max, and this column is a text"),
        ({"inputs": {"temp": {"pattern": "x"}}}, "only texts match a pattern"),
        ({"inputs": {"temp": {"type": "text"}}}, "never text"),
        ({"inputs": {"day": {"type": "number"}}}, "this column is a date, never number"),
        ({"inputs": {"temp": {"one_of": ["a"]}}}, "'a' is nothing that this column, a number, can be"),
        ({"inputs": {"temp": {"one_of": [True]}}}, "True is nothing that this column"),
        ({"inputs": {"mode": {"one_of": [1]}}}, "1 is nothing that this column, a text, can be"),
        ({"inputs": {"mode": {"pattern": "["}}}, "cannot be checked: error: unclosed character class"),
        ({"outputs": {"score": {"min": 1}}}, "no such column; it has prediction"),
    ],
)
def test_checks_that_cannot_be_are_refused(fields: Mapping[str, object], words: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        checks(**fields)
    assert words in str(error.value)
