"""Business rules against what the same words say in plain Python."""

from collections.abc import Mapping

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidSpec
from shoal.requests.loading import load
from shoal.requests.rules import Applied, Rules
from shoal.requests.spec import FleetSchema
from shoal.types import Feature, FeatureKind, KeyColumn, KeyType, Task

FEATURES = (Feature(name="temp", kind=FeatureKind.NUMERIC), Feature(name="mode", kind=FeatureKind.CATEGORY))
SITE = (KeyColumn(name="site", type=KeyType.STRING),)
SCHEMA = FleetSchema(keys=SITE, features=FEATURES, task=Task.REGRESSION)
DELAYS = FleetSchema(keys=SITE, features=FEATURES, task=Task.CLASSIFICATION, labels=("late", "lost", "ok"))
PUMPS = FleetSchema(keys=SITE, features=FEATURES, task=Task.ANOMALY)
LATE = "CASE WHEN prediction > 10 THEN 'late' ELSE 'ok' END"


def frame(prediction: list[float | None], **columns: list[object]) -> pl.DataFrame:
    height = len(prediction)
    usual: dict[str, object] = {
        "site": ["a"] * height, "temp": [1.0] * height, "mode": ["x"] * height, "prediction": prediction,
        "outcome": pl.Series(["no_model" if p is None else "scored" for p in prediction], dtype=pl.String),
    }  # fmt: skip
    return pl.DataFrame({**usual, **columns}, schema_overrides={"prediction": pl.Float64, **SCHEMA.inputs})


def run(rules: object, rows: pl.DataFrame, schema: FleetSchema = SCHEMA) -> Applied:
    return Rules(load({"rules": rules}), schema).apply(rows.to_dict())


def test_an_output_is_computed_where_there_is_an_answer() -> None:
    applied = run({"decision": LATE}, frame([11.0, 9.0, None]))
    assert applied.columns["decision"].to_list() == ["late", "ok", None]
    assert applied.columns["prediction"].to_list() == [11.0, 9.0, None]
    assert applied.failed is None


def test_rules_for_all_rows_see_what_became_of_them() -> None:
    applied = run([{"set": {"review": "outcome <> 'scored'"}, "rows": "all"}], frame([1.0, None]))
    assert applied.columns["review"].to_list() == [False, True]


def test_later_rules_see_earlier_ones_and_change_only_where_they_hold() -> None:
    rules = [
        {"set": {"level": "'low'", "weight": 1}},
        {"when": "prediction > 10", "set": {"level": "'high'"}},
        {"when": "level = 'high' AND site = 'b'", "set": {"level": "CONCAT(level, '!')", "extra": "prediction * 2"}},
    ]
    applied = run(rules, frame([5.0, 20.0, 30.0, None], site=["a", "a", "b", "b"])).columns
    assert applied["level"].to_list() == ["low", "high", "high!", None]
    assert applied["weight"].to_list() == [1, 1, 1, None]
    assert applied["extra"].to_list() == [None, None, 60.0, None]
    assert applied["weight"].dtype == pl.Int64


def test_an_answer_can_be_changed() -> None:
    rules = Rules(load({"rules": {"prediction": "GREATEST(prediction, 0)"}}), SCHEMA)
    assert rules.added == {}
    assert rules.apply(frame([-3.0, 3.0, None]).to_dict()).columns["prediction"].to_list() == [0.0, 3.0, None]


def test_what_rules_are_given_stays_as_it_was() -> None:
    rules = Rules(load({"rules": [{"when": "prediction < 0", "set": {"prediction": 0}}]}), SCHEMA)
    given = frame([-3.0, 3.0, None]).to_dict()
    assert rules.apply(given).columns["prediction"].to_list() == [0.0, 3.0, None]
    assert given["prediction"].to_list() == [-3.0, 3.0, None]
    chances = pl.Series("probability", [[0.3, 0.3, 0.4], None], dtype=pl.Array(pl.Float64, 3))
    delays = {"prediction": pl.Series("prediction", ["ok", None]), "probability": chances}
    decided = Rules(load({"threshold": {"label": "late", "probability": 0.3}}), DELAYS).apply(delays)
    assert decided.columns["prediction"].to_list() == ["late", None]
    assert delays["prediction"].to_list() == ["ok", None]


def test_a_missing_number_is_null_to_a_rule() -> None:
    applied = run({"known": "temp IS NOT NULL"}, frame([1.0] * 3, temp=[1.0, None, float("nan")]))
    assert applied.columns["known"].to_list() == [True, False, False]


def test_a_rule_of_constants_is_for_every_row() -> None:
    applied = run({"a": 1, "b": "'x'", "c": True, "d": 0.5}, frame([1.0, 2.0]))
    assert pl.DataFrame([applied.columns[name] for name in "abcd"]).rows() == [(1, "x", True, 0.5)] * 2
    assert len(run({"a": 1}, frame([])).columns["a"]) == 0


@pytest.mark.parametrize("bad", [[1], [0, 3, 4], list(range(7))])
def test_a_row_that_a_rule_fails_on_costs_only_itself(bad: list[int]) -> None:
    modes = ["oops" if row in bad else "5" for row in range(7)]
    applied = run(
        [{"name": "shift", "set": {"shifted": "prediction + CAST(mode AS INT)"}}], frame([1.0] * 7, mode=modes)
    )
    assert applied.failed is not None
    assert applied.failed.rows.tolist() == [row in bad for row in range(7)]
    assert all("rule 'shift' failed: conversion from" in reason for reason in applied.failed.reasons.values())
    assert applied.columns["shifted"].to_list() == [None if row in bad else 6.0 for row in range(7)]
    assert applied.columns["prediction"].to_list() == [None if row in bad else 1.0 for row in range(7)]


def test_a_division_by_zero_costs_only_its_row() -> None:
    applied = run({"ratio": "temp / prediction"}, frame([1.0, 0.0, 2.0]))
    assert applied.failed is not None
    assert applied.failed.reasons == {1: "rule 'ratio' gives no finite number for 'ratio'"}
    assert applied.columns["ratio"].to_list() == [1.0, None, 0.5]


def test_a_rule_does_not_fail_where_it_does_not_hold() -> None:
    rules = [{"when": "mode <> 'oops'", "set": {"number": "CAST(mode AS INT)"}}]
    applied = run(rules, frame([1.0] * 3, mode=["4", "oops", None]))
    assert applied.failed is None
    assert applied.columns["number"].to_list() == [4, None, None]


@given(st.lists(st.none() | st.floats(-30, 30), min_size=1, max_size=12), st.data())
def test_a_batch_is_decided_like_its_rows_alone(prediction: list[float | None], data: st.DataObject) -> None:
    modes = data.draw(st.lists(st.sampled_from(["1", "7", "x"]), min_size=len(prediction), max_size=len(prediction)))
    rules = Rules(
        load({
            "rules": [
                {"set": {"a": "CAST(mode AS INT) + prediction"}},
                {"when": "prediction > 0", "set": {"a": "a / (prediction - 7)", "b": LATE}},
            ]
        }),
        SCHEMA,
    )  # fmt: skip
    rows = frame(prediction, mode=list(modes))
    together = rules.apply(rows.to_dict())
    alone = [rules.apply(rows[i : i + 1].to_dict()) for i in range(rows.height)]
    assert pl.DataFrame(together.columns).equals(pl.concat([pl.DataFrame(one.columns) for one in alone]))
    failed = together.failed.reasons if together.failed else {}
    assert failed == {i: one.failed.reasons[0] for i, one in enumerate(alone) if one.failed}


def test_the_threshold_of_scores() -> None:
    rules = Rules(load({"threshold": {"score": -0.5}}), PUMPS)
    rows = pl.DataFrame({"score": [-0.6, -0.5, 0.1, None], "is_anomaly": [True, True, False, None]})
    assert rules.apply(rows.to_dict()).columns["is_anomaly"].to_list() == [True, False, False, None]


def test_the_threshold_of_a_class_and_probabilities_in_rules() -> None:
    spec = load({"threshold": {"label": "late", "probability": 0.3}, "rules": {"risk": "probability_late * 100"}})
    chances = pl.Series([[0.3, 0.3, 0.4], [0.2, 0.3, 0.5], [0.29, 0.6, 0.11], None], dtype=pl.Array(pl.Float64, 3))
    rows = pl.DataFrame({"prediction": ["ok", "ok", "lost", None], "probability": chances})
    applied = Rules(spec, DELAYS).apply(rows.to_dict()).columns
    assert applied["prediction"].to_list() == ["late", "ok", "lost", None]
    np.testing.assert_allclose(applied["risk"].to_list()[:3], [30, 20, 29])
    assert list(applied) == ["prediction", "probability", "risk"]
    strict = Rules(load({"threshold": {"label": "late", "probability": 0.9}}), DELAYS)
    late = rows.with_columns(prediction=pl.lit("late"))
    assert strict.apply(late.to_dict()).columns["prediction"].to_list()[:2] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"rules": [{"set": {"a": "SELECT 1 FROM"}}]}, "field 'rules[1].set.a'"),
        ({"rules": {"a": "tmp + 1"}}, "field 'rules[1].set.a': there is no column 'tmp'; there are site, temp, mode"),
        ({"rules": {"a": "SUM(temp)"}}, "looks at more than the row itself"),
        ({"rules": {"a": "temp - AVG(temp)"}}, "looks at more than the row itself"),
        ({"rules": {"a": "FIRST(temp)"}}, "looks at more than the row itself"),
        ({"rules": {"a": "(SELECT MAX(x) FROM read_csv('/etc/passwd'))"}}, "'read_csv' may not occur"),
        ({"rules": [{"when": "temp + 1", "set": {"a": 1}}]}, "field 'rules[1].when': 'temp + 1' is no predicate"),
        ({"rules": {"a": "temp + mode"}}, "field 'rules[1].set.a' cannot be computed"),
        ({"rules": {"temp": "1"}}, "'temp' is an input"),
        ({"rules": {"site": "'x'"}}, "'site' is an input"),
        ({"rules": {"outcome": "'x'"}}, "Shoal itself writes 'outcome'"),
        ({"rules": {"snapshot": "1"}}, "Shoal itself writes 'snapshot'"),
        ({"rules": {"prediction": "'much'"}}, "is String, but 'prediction' is Float64 already"),
        ({"rules": [{"set": {"a": "1"}}, {"set": {"a": "'x'"}}]}, "field 'rules[2].set.a' is String, but 'a' is Int64"),
        ({"rules": {"a": "DATE '2026-01-01'"}}, "is Date: make it a number, a text or a boolean"),
        ({"rules": {"a": "NULL"}}, "is Null"),
        ({"threshold": {"score": 1}}, "is for anomaly fleets; this one does regression"),
        ({"threshold": {"label": "late", "probability": 0.5}}, "is for classification fleets"),
    ],
)
def test_rules_that_cannot_be_are_refused(spec: Mapping[str, object], words: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        Rules(load(spec), SCHEMA)
    assert words in str(error.value)


def test_a_threshold_names_a_class_that_there_is() -> None:
    with pytest.raises(InvalidSpec, match="'early' is none of"):
        Rules(load({"threshold": {"label": "early", "probability": 0.5}}), DELAYS)
