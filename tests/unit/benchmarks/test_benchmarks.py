"""The benchmarks compare like with like, and their page says what was measured."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

from benchmarks import page, peers
from benchmarks.case import Bound, Effort, Result, faster, median_s, medians_s, seconds
from benchmarks.population import FEATURES, populate
from shoal.fleet import Fleet


def fit(generator: np.random.Generator) -> LinearRegression:
    X = generator.normal(size=(20, len(FEATURES)))
    return LinearRegression().fit(X, X @ generator.normal(size=len(FEATURES)))


@pytest.fixture(scope="module")
def population():
    return populate(fit, models=30, rows_each=4, distinct=10)


def test_every_model_is_an_object_of_its_own(population):
    assert len({id(model) for model in population.models.values()}) == 30
    assert len({id(model.coef_) for model in population.models.values()}) == 30


def test_shoal_and_the_loop_are_asked_the_same(population):
    frame = population.frame
    assert frame.select("device", "sensor", "position").n_unique() == 120
    fleet = Fleet.from_estimators(
        keys=["device", "sensor"], models=population.models, features=FEATURES, task="regression"
    )
    answers = fleet.predict(frame)["prediction"].to_list()
    loop = peers.loop(population, "predict")
    expected = [
        loop[device, sensor][place] for device, sensor, place in frame.select("device", "sensor", "position").rows()
    ]
    assert answers == pytest.approx(expected, abs=1e-9)


def test_files_answer_as_the_loop_does(population):
    with peers.Files(population, "predict") as score:
        answers = score()
    for key, expected in peers.loop(population, "predict").items():
        np.testing.assert_array_equal(answers[key], expected)


def test_rows_come_in_no_order(population):
    assert not population.frame["position"].is_sorted()
    assert population.frame["device"].dtype == pl.String


@pytest.mark.parametrize(("shoal_s", "met"), [(0.01, True), (0.1, False)])
def test_a_race_is_won_by_its_ratio(shoal_s, met):
    line = faster("case", "loop", shoal_s=shoal_s, peer_s=1.0, limit=50)
    assert line.met is met


def test_a_limit_may_be_an_upper_one():
    line = Result(case="opening", against="limit", shoal="3 ms", figure=3.0, unit="ms", limit=50, bound=Bound.AT_MOST)
    assert line.met
    assert not dataclasses.replace(line, figure=51.0).met


def test_works_take_turns():
    calls = []
    medians_s(2, [lambda: calls.append("a"), lambda: calls.append("b")])
    assert calls == ["a", "b", "a", "b"]


def test_the_median_counts():
    assert median_s(3, lambda: None) < 0.1
    assert Effort(scale=0.1).models(10_000) == 1_000


@pytest.mark.parametrize(("value", "text"), [(2.0, "2 s"), (0.0312, "31.2 ms"), (4.2e-5, "42 µs"), (3.3e-9, "3.3 ns")])
def test_times_come_with_their_unit(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(("peer_s", "shown"), [(9.9994, "9.9994x"), (10.0, "10x"), (10.004, "10x"), (9.98, "9.98x")])
def test_what_just_misses_its_limit_does_not_look_like_it(peer_s, shown):
    assert page.result(faster("case", "loop", shoal_s=1.0, peer_s=peer_s, limit=10)) == shown


def test_the_page_keeps_what_did_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    old = faster("old case", "loop", shoal_s=0.01, peer_s=1.0, limit=50, note="grouped beforehand")
    new = faster("new case", "loop", shoal_s=0.1, peer_s=1.0, limit=50)
    page.publish({"b": [old]}, order=["a", "b"], repeats=5, load=0.1)
    page.publish({"a": [new]}, order=["a", "b"], repeats=5, load=0.1)
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert text.index("| new case |") < text.index("| old case |")
    assert "| 10x | at least 50x | **missed** | 20" in text
    assert "| 100x | at least 50x | met |" in text
    assert "old case, against loop: grouped beforehand." in text
    assert "Python: " in text
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("\nafter\n")
    assert "| new case | loop | 10x |" in readme
    assert "\nold\n" not in readme
