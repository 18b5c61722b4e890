import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from shoal.telemetry.metrics import Kind, Metrics, exposition, merge


def read(families):
    """What a collector reads: (name, labels) -> value."""
    text = exposition(families)[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def worker(*, seconds=(), connections=0.0, stale=0.0):
    metrics = Metrics()
    took = metrics.metric("shoal_took_seconds", Kind.HISTOGRAM, "Time", ("fleet",), (0.1, 1.0))
    for one in seconds:
        took.observe(("pumps",), one)
    metrics.metric("shoal_connections", Kind.SUM, "Open").set((), connections)
    metrics.metric("shoal_stale_seconds", Kind.MAXIMUM, "Stale").set((), stale)
    metrics.metric("shoal_rows", Kind.COUNTER, "Rows", ("fleet",)).add(("pumps",), len(seconds))
    return metrics


@given(st.lists(st.lists(st.floats(0, 5), max_size=20), min_size=1, max_size=4))
def test_workers_add_up_to_what_one_would_have_counted(shares):
    together = [one for share in shares for one in share]
    found = read(merge([worker(seconds=share).dump() for share in shares]))
    pumps = (("fleet", "pumps"),)
    assert found["shoal_rows_total", pumps] == len(together)
    if together:
        assert found["shoal_took_seconds_count", pumps] == len(together)
        assert found["shoal_took_seconds_sum", pumps] == pytest.approx(math.fsum(together))
        for bound, value in (("0.1", 0.1), ("1.0", 1.0), ("+Inf", math.inf)):
            labels = (("fleet", "pumps"), ("le", bound))
            assert found["shoal_took_seconds_bucket", labels] == sum(one <= value for one in together)


def test_gauges_are_summed_or_the_worst_counts():
    found = read(merge([worker(connections=3, stale=0.2).dump(), worker(connections=4, stale=9.0).dump()]))
    assert found["shoal_connections", ()] == 7
    assert found["shoal_stale_seconds", ()] == 9.0


def test_who_takes_the_place_of_a_dead_worker_goes_on_counting_from_there():
    before = worker(seconds=[0.05, 2.0], connections=5)
    after = worker(seconds=[0.05])
    after.adopt(before.dump())
    found = read(merge([after.dump()]))
    assert found["shoal_rows_total", (("fleet", "pumps"),)] == 2
    assert found["shoal_connections", ()] == 0


def test_what_is_counted_goes_on_wherever_it_is_made_later():
    after = Metrics()
    after.adopt(worker(seconds=[0.05, 2.0], connections=5).dump())
    assert read(merge([after.dump()]))["shoal_rows_total", (("fleet", "pumps"),)] == 2
    rows = after.metric("shoal_rows", Kind.COUNTER, "Rows", ("fleet",))
    rows.add(("pumps",), 1)
    found = read(merge([after.dump()]))
    assert found["shoal_rows_total", (("fleet", "pumps"),)] == 3
    assert ("shoal_connections", ()) not in found


def test_labels_cannot_grow_without_end():
    metrics = Metrics()
    counted = metrics.metric("shoal_things", Kind.COUNTER, "Things", ("name",))
    for number in range(5000):
        counted.add((f"name {number}",))
    (family,) = merge([metrics.dump()])
    assert len(family.series) <= 2001
    assert sum(one.numbers[0] for one in family.series) == 5000
    assert max(family.series, key=lambda one: one.numbers[0]).labels == ("(other)",)


def test_a_metric_is_made_once():
    metrics = Metrics()
    made = [metrics.metric("shoal_things", Kind.COUNTER, "Things") for _ in range(2)]
    assert made[0] is made[1]
