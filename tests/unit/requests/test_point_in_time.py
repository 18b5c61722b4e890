"""Features as they were: against a loop over rows, and against what serving chooses among the same rows."""

import datetime as dt
import math
from collections.abc import Mapping

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidInput
from shoal.requests.loading import load_lookup
from shoal.requests.point_in_time import join, microseconds
from shoal.requests.spec import LookupSpec
from shoal.storage.lookup_reader import best, moment

USUAL: Mapping[str, object] = {
    "source": "pumps", "keys": {"site": "place", "unit": "unit"}, "features": {"age": "years", "kind": "type"},
    "as_of": "since",
}  # fmt: skip
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HISTORY = {
    "place": pl.String, "unit": pl.Int32, "since": pl.Datetime("us", "UTC"), "years": pl.Float64, "type": pl.String,
}  # fmt: skip


def lookup(**changes: object) -> LookupSpec:
    return load_lookup({**USUAL, **changes})


sites = st.none() | st.sampled_from(["a", "b"])
units = st.none() | st.integers(1, 2)
times = st.none() | st.integers(0, 12).map(lambda hour: START + dt.timedelta(hours=hour))
past = st.lists(
    st.tuples(sites, units, times, st.none() | st.floats(-2, 2) | st.just(math.nan), st.sampled_from([None, "x", "y"])),
    max_size=14,
)  # fmt: skip
rows = st.lists(st.tuples(sites, units, times), max_size=8)


@given(past, rows, st.none() | st.sampled_from([0.0, 3600.0, 7200.0]))
def test_a_row_gets_what_held_at_its_time_and_never_later(
    history: list[tuple[object, ...]], asked: list[tuple[object, ...]], max_age_s: float | None
) -> None:
    expected = []
    for site, unit, time in asked:
        found = None
        if None not in (site, unit, time):
            known = [r for r in history if r[:2] == (site, unit) and r[2] is not None and r[2] <= time]  # type: ignore[operator]
            newest = [(r[3], r[4], r[2]) for r in known if r[2] == max(k[2] for k in known)]  # type: ignore[type-var]
            found = best(newest, timed=True) if newest else None
            if found is not None and max_age_s is not None and time - found[2] > dt.timedelta(seconds=max_age_s):  # type: ignore[operator]
                found = None
        age = None if found is None or found[0] is None or math.isnan(found[0]) else found[0]  # type: ignore[arg-type]
        expected.append((7.0 if age is None else age, None if found is None else found[1]))
    frame = pl.DataFrame(
        [(*row, i) for i, row in enumerate(asked)], orient="row",
        schema={"site": pl.String, "unit": pl.Int64, "time": pl.Datetime("us", "UTC"), "own": pl.Int64},
    )  # fmt: skip
    source = pl.DataFrame(history, schema=HISTORY, orient="row")
    spec = lookup(max_age_s=max_age_s, defaults={"age": 7})
    joined = join(frame, source, spec, "time")
    assert joined.select(frame.columns).equals(frame)
    assert joined.select("age", "kind").rows() == expected
    shuffled = join(frame, source.sample(fraction=1, shuffle=True, seed=1), spec, "time")
    assert shuffled.equals(joined)


def test_nanoseconds_never_let_the_future_in() -> None:
    at = pl.Series([1_000_000_000_000_000_500]).cast(pl.Datetime("ns", "UTC"))
    later = pl.Series([1_000_000_000_000_000_501]).cast(pl.Datetime("ns", "UTC"))
    frame = pl.DataFrame({"site": ["a"], "unit": [1], "time": at})
    source = pl.DataFrame({"place": ["a"], "unit": [1], "since": later, "years": [1.0], "type": ["x"]})
    assert join(frame, source, lookup(), "time")["age"].to_list() == [None]
    exact = source.with_columns(since=pl.Series([1_000_000_000_000_000_000]).cast(pl.Datetime("ns", "UTC")))
    assert join(frame, exact, lookup(), "time")["age"].to_list() == [1.0]


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([dt.date(2026, 1, 2), None]),
        pl.Series([dt.datetime(2026, 1, 2, 3), None]),
        pl.Series([dt.datetime(2026, 1, 2, 3), None], dtype=pl.Datetime("ms")),
        pl.Series([dt.datetime(2026, 1, 2, 3), None]).dt.replace_time_zone("America/New_York"),
        pl.Series(["2026-01-02 03:00:00", None, "2026-01-02T03:00:00.5+02:00", "2026-01-02"]),
        pl.Series([1767322800, None]),
        pl.Series([1767322800.25, None]),
        pl.Series([None, None]),
    ],
)
def test_times_of_every_kind_are_the_same_moments_as_in_serving(times: pl.Series) -> None:
    found = microseconds(times, up=False).to_list()
    expected = [moment(value) for value in times]
    assert [None if us is None else dt.timedelta(microseconds=us) for us in found] == [
        None if time is None else time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC) for time in expected
    ]


def test_features_that_never_change() -> None:
    source = pl.DataFrame(
        {"place": ["a", "a", "b"], "unit": [1, 1, 2], "years": [1.0, 3.0, None], "type": ["x", "y", "z"]}
    )
    frame = pl.DataFrame({"site": ["b", "a", "c", None], "unit": [2, 1, 1, 1], "age": [9, 9, 9, 9]})
    joined = join(frame, source, lookup(as_of=None), None)
    assert joined.columns == ["site", "unit", "age", "kind"]
    assert joined.select("age", "kind").rows() == [(None, "z"), (3.0, "y"), (None, None), (None, None)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": {"age": "yeers"}}, "the source has no column 'yeers'; it has place, unit, since, years, type"),
        ({"keys": {"place": "place"}}, "the input has no column 'place'"),
        ({"as_of": "type", "features": {"age": "years"}}, "'x' is no time"),
        ({"defaults": {"kind": 1}}, "field 'lookup.defaults.kind': 1.0 does not fit String"),
        ({"defaults": {"age": "old"}}, "field 'lookup.defaults.age': 'old' does not fit Float64"),
        ({"keys": {"time": "place"}}, "'time' is Datetime"),
        ({"keys": {"unit": "years"}, "features": {"kind": "type"}}, None),
    ],
)
def test_columns_that_do_not_fit(changes: Mapping[str, object], words: str | None) -> None:
    frame = pl.DataFrame({"site": ["a"], "unit": [1], "time": [START]})
    source = pl.DataFrame([("a", 1, START, 1.0, "x")], schema=HISTORY, orient="row")
    if words is None:
        assert join(frame, source, lookup(**changes), "time")["kind"].to_list() == ["x"]
        return
    with pytest.raises(InvalidInput) as error:
        join(frame, source, lookup(**changes), "time")
    assert words in str(error.value)
