"""A spec is read from YAML or Python, and what is wrong with it is said in words."""

from pathlib import Path

import pytest
from training_setup import LOGISTIC, RIDGE, SVM, spec

from shoal.errors import InvalidSpec
from shoal.quickstart import nycflights
from shoal.training.candidates import choices
from shoal.training.loading import load
from shoal.training.spec import TrainSpec
from shoal.types import Task

YAML = """
fleet: air-time
input: flights.parquet
keys: [origin, dest]
features: [distance, hour]
target: air_time
task: regression
split:
  time: day
  train: {from: 2013-01-01}
  validation: {from: 2013-10-01, until: 2013-11-01}
outliers: {rule: mad, factor: 6}
candidates:
  - name: ridge
    steps: [sklearn.preprocessing.StandardScaler, {sklearn.linear_model.Ridge: {alpha: 1}}]
    grid: {ridge__alpha: [0.1, 1, 10]}
fallback: [[dest], []]
promote: true
"""


def test_yaml_python_and_the_ledger_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(YAML)
    read = load(tmp_path / "spec.yaml")
    assert read.levels == (("origin", "dest"), ("dest",), ())
    assert (read.task, read.measure.name, read.alias) == (Task.REGRESSION, "mae", "champion")
    assert read.split.validation is not None
    assert read.split.validation.from_ == "2013-10-01"
    assert load(read.document()) == read


def test_defaults() -> None:
    document = spec(Path("x"), fallback=None, metric=None, keys="shop")
    assert load(document).levels == (("shop",), ())
    assert load({**document, "keys": []}).levels == ((),)
    assert not load(document).keeps_always
    assert load(anomaly()).keeps_always
    assert load(anomaly()).measure.name == "flagged"


def anomaly(**changes: object) -> dict[str, object]:
    return spec(Path("x"), **{"task": "anomaly", "target": None, "metric": None, "candidates": [SVM], **changes})


def test_levels_are_in_the_order_of_the_keys_finest_first() -> None:
    levels = load(spec(Path("x"), keys=["a", "b", "c"], fallback=[[], ["c", "a"], ["b"]])).levels
    assert levels == (("a", "b", "c"), ("a", "c"), ("b",), ())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"featurs": ["x"]}, "did you mean 'features'"),
        ({"colour": 1}, "known are fleet, input"),
        ({"task": "forecast"}, "task"),
        ({"features": []}, "'features' is empty"),
        ({"input": []}, "'input'"),
        ({"target": None}, "'target' is missing"),
        ({"target": "x"}, "'x' is named twice"),
        ({"metric": "accuracy"}, "does not measure regression; choose one of mae"),
        ({"metric": "speed"}, "choose one of"),
        ({"fallback": [["town"]]}, "'town' is not among the keys"),
        ({"fallback": [["shop", "item"]]}, "not coarser"),
        ({"fallback": [["shop"], ["shop"]]}, "names a level twice"),
        ({"split": {}}, "either 'fraction'"),
        ({"split": {"fraction": 1.5}}, "between 0 and 1"),
        ({"split": {"validation": {"from": "2026-01-01"}}}, "need 'time'"),
        ({"split": {"time": "day", "validation": {"until": "2026-01-01"}}}, "needs 'from'"),
        ({"split": {"time": "day", "validation": {"from": "soon"}}}, "'soon' is not a date"),
        ({"split": {"time": "day", "fraction": 0.1, "train": {"from": "2026-01-01"}}}, "needs 'validation'"),
        (
            {"split": {"time": "day", "train": {"until": "2026-06-02"}, "validation": {"from": "2026-06-01"}}},
            "would see rows of the validation window",
        ),
        ({"outliers": {"rule": "sigma"}}, "sigma"),
        ({"outliers": {"rule": "mad", "columns": ["w"]}}, "neither a feature nor the target"),
        ({"outliers": {"rule": "mad", "factor": -1}}, "'outliers.factor' is -1"),
        ({"minimum_rows": 0}, "'minimum_rows' is 0"),
        ({"maximum_rows": 5}, "'maximum_rows' is 5"),
        ({"candidates": []}, "'candidates' is empty"),
        ({"candidates": [RIDGE, RIDGE]}, "two are called 'ridge'"),
        ({"candidates": [{"name": "a", "steps": []}]}, "no steps"),
        ({"candidates": [{**RIDGE, "grid": {"ridge__alpha": []}}]}, "gives no value for 'ridge__alpha'"),
        ({"candidates": [{**RIDGE, "used_for": "fallbacks"}]}, "none is for the segments"),
        ({"candidates": [{**RIDGE, "used_for": "segments"}]}, "none is for the fallback levels"),
        ({"where": "read_csv('/etc/passwd')"}, "read_csv"),
        ({"preprocess": "DROP TABLE input"}, "SELECT"),
    ],
)
def test_mistakes_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        load(spec(Path("x"), **changes))
    assert words in str(error.value)


def test_an_anomaly_has_no_target() -> None:
    with pytest.raises(InvalidSpec, match="learns without one"):
        load(anomaly(target="y"))
    with pytest.raises(InvalidSpec, match="classification"):
        load(spec(Path("x"), task="classification", metric="mae", candidates=[LOGISTIC]))


def test_files_that_are_no_spec(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="cannot be read"):
        load(tmp_path / "none.yaml")
    for text in ("- a\n- b", "{ unfinished"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(InvalidSpec, match=r"bad\.yaml"):
            load(tmp_path / "bad.yaml")


def test_a_spec_is_a_value() -> None:
    assert isinstance(load(spec(Path("x"))), TrainSpec)
    assert load(load(spec(Path("x")))) == load(spec(Path("x")))


def test_the_example_is_valid_and_fits_the_table_it_is_about() -> None:
    example = load(Path(__file__).parents[3] / "examples" / "train_flights.yaml")
    assert example.keys == nycflights.KEYS
    assert example.features == nycflights.FLIGHT_FEATURES
    assert [str(choice) for choice in choices(example.candidates)][-1] == "boosting"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"split": {"holdout": 0.2}},
            "field 'split.holdout' is not known: known are fraction, time, train, validation",
        ),
        ({"split": {"time": "day", "validation": {"form": "2026-10-01"}}}, "'split.validation.form' .* mean 'from'?"),
        ({"outliers": {"rule": "mad", "facto": 3}}, "'outliers.facto' is not known: did you mean 'factor'?"),
        ({"candidates": [RIDGE, {**SVM, "uses": "all"}]}, r"'candidates\[2\].uses' is not known"),
        ({"kep": {}}, "field 'kep' is not known: did you mean 'keep'?"),
    ],
)
def test_a_field_that_is_not_known_is_named_with_those_that_are(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidSpec, match=said):
        load(spec(Path("x"), **changes))
