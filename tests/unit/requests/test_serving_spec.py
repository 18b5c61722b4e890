"""Serving specs: what is read, what is refused, and in which words."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
import yaml

from shoal.errors import InvalidSpec
from shoal.requests import sources, spec
from shoal.requests.loading import load
from shoal.requests.spec import Rule, ServingSpec

FULL: Mapping[str, object] = {
    "checks": {
        "inputs": {"temp": {"min": -40, "max": 60, "not_null": True}, "site": {"one_of": ["a", "b"]}},
        "outputs": {"prediction": {"min": 0}},
        "on_input": "reject",
    },
    "threshold": {"score": -0.5},
    "rules": [{"name": "late", "when": "prediction > 10", "set": {"decision": "'late'", "weight": 2}}],
    "lookup": {
        "source": "customers",
        "keys": {"customer": "id"},
        "features": ["age"],
        "defaults": {"age": 40},
        "cache": {"ttl_s": 60},
    },
    "cache": {"ttl_s": 5, "size_bytes": 4096},
    "log": {"sample": 0.5},
    "store": "durable",
    "limits": {"max_rows": 10},
}


def test_a_spec_survives_its_own_document() -> None:
    full = load(FULL)
    assert load(full.document()) == full
    assert full.lookup is not None
    assert full.lookup.features == {"age": "age"}


def test_an_empty_spec_is_one() -> None:
    assert load({}) == ServingSpec()


def test_a_mapping_of_rules_is_one_rule(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("rules: {decision: \"CASE WHEN prediction > 1 THEN 'a' ELSE 'b' END\"}\n")
    (rule,) = load(path).rules
    assert rule == Rule(set={"decision": "CASE WHEN prediction > 1 THEN 'a' ELSE 'b' END"})


def test_the_digest_is_of_what_answers_depend_on() -> None:
    full = load(FULL)
    assert load({**FULL, "log": None, "store": None, "cache": None, "limits": {}}).digest == full.digest
    for name in ("checks", "threshold", "rules", "lookup"):
        assert load({field: value for field, value in FULL.items() if field != name}).digest != full.digest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rule": []}, "field 'rule' is not known: did you mean 'rules'?"),
        ({"checks": {"inputs": {"temp": {"minimum": 1}}}}, "minimum"),
        ({"checks": {"inputs": {"temp": {}}}}, "checks.inputs.temp' checks nothing"),
        ({"checks": {"inputs": {"temp": {"min": 3, "max": 2}}}}, "min 3 lies above max 2"),
        (
            {"checks": {"inputs": {"temp": {"one_of": []}}}},
            "field 'checks.inputs.temp.one_of' is empty: name the values",
        ),
        ({"checks": {"on_input": "explode"}}, "explode"),
        ({"rules": [{"set": {}}]}, "field 'rules[1].set' is empty"),
        ({"rules": [{"set": {"x": "1"}, "rows": "some"}]}, "some"),
        ({"threshold": {"label": "late"}}, "field 'threshold' needs either 'score', or 'label' and 'probability'"),
        ({"threshold": {"score": 1, "label": "a", "probability": 0.5}}, "needs either"),
        ({"threshold": {"label": "late", "probability": 7}}, "must lie between 0 and 1"),
        ({"cache": {"ttl_s": 0}}, "field 'cache.ttl_s' is 0"),
        ({"cache": {"ttl_s": 1, "store": "r", "size_bytes": 4096}}, "in Redis its own maxmemory counts"),
        ({"cache": {"ttl_s": float("nan")}}, "field 'cache.ttl_s' is nan"),
        ({"log": {"sample": 2}}, "field 'log.sample' is 2"),
        ({"log": {"keep_days": 0.5}}, "field 'log.keep_days' is 0.5: it must be at least 1"),
        ({"store": "somewhere"}, "store"),
        ({"limits": {"max_rows": 0}}, "field 'limits.max_rows' is 0"),
        ({"lookup": {"source": "", "keys": ["a"], "features": ["b"]}}, "field 'lookup.source' is empty"),
        ({"lookup": {"source": "s", "keys": [], "features": ["b"]}}, "field 'lookup.keys' is empty"),
        ({"lookup": {"source": "s", "keys": ["a"], "features": ["a"]}}, "'a' is looked up by"),
        ({"lookup": {"source": "s", "keys": ["a"], "features": ["b"], "defaults": {"c": 1}}}, "'c' is not among"),
        ({"lookup": {"source": "s", "keys": ["a"], "features": ["b"], "max_age_s": 1}}, "needs 'as_of'"),
        ({"lookup": {"source": "s", "keys": ["a"], "features": ["b"], "timeout_ms": 0}}, "lookup.timeout_ms"),
    ],
)
def test_what_is_wrong_is_named(changes: Mapping[str, object], words: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        load({**FULL, **changes})
    assert words in str(error.value)


PAGE = (Path(__file__).resolve().parents[3] / "docs" / "serving-spec.md").read_text()
STRUCTS = (
    spec.ServingSpec, spec.ChecksSpec, spec.ColumnCheck, spec.Rule, spec.Threshold, spec.CacheSpec, spec.DataCacheSpec,
    spec.LookupSpec, spec.LogSpec, spec.LimitsSpec, *sources.KINDS.values(),
)  # fmt: skip


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_is_described(struct: type[msgspec.Struct]) -> None:
    assert [
        name for name in struct.__struct_encode_fields__ if not re.search(rf"`{name}[`:]|[ {{]{name}: ", PAGE)
    ] == []


def test_the_example_is_a_spec() -> None:
    example, *_ = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert load(yaml.safe_load(example)).rules[0].set.keys() == {"decision"}
