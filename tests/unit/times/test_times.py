"""Times as people and programs write them; those near the first and the last year are none in UTC."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidInput
from shoal.times import in_utc, iso_time, utc_time

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(hours=23, minutes=59)
BEYOND = ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+10:00"]


@pytest.mark.parametrize(
    "text",
    ["2026-01-31T12:00:00Z", "2026-01-31t12:00:00z", "2026-01-31 12:00", "2026-01-31T13:00:00+01:00",
     "20260131T120000Z"],
)  # fmt: skip
def test_a_time_is_read_and_without_a_zone_it_is_utc(text):
    assert utc_time(text, what="since") == NOON
    assert utc_time(text, what="since").tzinfo is dt.UTC
    assert utc_time("2026-01-31", what="since") == NOON.replace(hour=0)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "12:00", "2026-01-31T25:00:00Z", *BEYOND])
def test_what_is_no_time_is_refused_with_advice(text):
    assert iso_time(text) is None
    with pytest.raises(InvalidInput, match=r"since .* is no time; write e\.g\. 2026-01-31"):
        utc_time(text, what="since")


def test_a_zone_is_kept_where_one_is_written_and_none_is_made_up():
    assert iso_time("2026-01-31T12:00:00") == dt.datetime(2026, 1, 31, 12)
    assert iso_time("2026-01-31T12:00:00+02:00").utcoffset() == dt.timedelta(hours=2)


@given(st.datetimes(timezones=st.builds(dt.timezone, st.timedeltas(-DAY, DAY))))
def test_an_aware_time_is_the_same_in_utc_or_invalid_input(moment):
    try:
        found = in_utc(moment)
    except InvalidInput:
        assert moment.year in (1, 9999)
    else:
        assert (found, found.tzinfo) == (moment, dt.UTC)


def test_a_time_without_a_zone_is_not_guessed_at():
    with pytest.raises(InvalidInput, match="no time zone"):
        in_utc(dt.datetime(2026, 1, 31))
