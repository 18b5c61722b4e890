"""What fleets were asked, as it is told, and over promotions."""

import gc
import time

from shoal.requests.batcher import Tally
from shoal.serving.statistics import KEPT_COUNTERS, KEPT_VERSIONS, FleetCounters, FleetHistory


def served(version, requests):
    counters = FleetCounters("pumps", version, Tally())
    for _ in range(requests):
        counters.answered(0, 0, 0)
    return counters


def test_nothing_is_forgotten_however_often_two_snapshots_take_turns():
    history = FleetHistory("pumps")
    for number in range(1000):
        history.retire(served(str(1 + number % 2), 1 + number % 2))
    assert {one.version: one.requests for one in history.versions([])} == {"1": 500, "2": 1000}
    counting = served("1", 7)
    assert {one.version: one.requests for one in history.versions([counting])} == {"2": 1000, "1": 507}
    assert history.total([counting]).requests == 1507


def test_what_failed_took_its_time_and_counts_among_all_snapshots():
    history = FleetHistory("pumps")
    retired, counting = served("1", 1), served("2", 1)
    before_ns = time.perf_counter_ns()
    for counters in (retired, counting, counting):
        counters.failed(before_ns)
    after_ns = time.perf_counter_ns()
    history.retire(retired)
    first, second = history.versions([counting])
    assert (first.failures, second.failures) == (1, 2)
    assert 0 < first.failure_ns < second.failure_ns <= 2 * (after_ns - before_ns)
    assert history.total([counting]).failure_ns == first.failure_ns + second.failure_ns


def test_counters_that_were_replaced_just_now_still_grow():
    history = FleetHistory("pumps")
    late = served("1", 1)
    history.retire(late)
    history.retire(served("2", 1))
    history.retire(served("1", 1))
    late.answered(0, 0, 0)
    assert {one.version: one.requests for one in history.versions([])} == {"2": 1, "1": 3}


def test_more_snapshots_than_are_shown_still_count():
    history = FleetHistory("pumps")
    for number in range(3 * KEPT_VERSIONS):
        history.retire(served(str(number), 1))
    assert len(history.versions([])) == KEPT_VERSIONS
    assert history.total([]).requests == 3 * KEPT_VERSIONS


def test_a_promotion_every_second_for_ever_takes_no_more_memory():
    history = FleetHistory("pumps")
    for number in range(2000):
        history.retire(served(f"turn {number % 2}", 1))
    gc.collect()
    held = [one for one in gc.get_objects() if type(one) is FleetCounters and one.version.startswith("turn")]
    assert 0 < len(held) <= 2 * KEPT_COUNTERS


def test_the_last_request_came_at_one_moment_however_often_it_is_told(monkeypatch):
    counters = FleetCounters("pumps", "1", Tally())
    assert counters.statistics().last_request_at_ms == 0
    before_ms, started_ns = time.time_ns() // 1_000_000, time.perf_counter_ns()
    counters.answered(started_ns, started_ns, started_ns)
    told = counters.statistics()
    assert before_ms - 1 <= told.last_request_at_ms <= time.time_ns() // 1_000_000
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + 5_000_000)  # a pause between the looks at two clocks
    assert counters.statistics() == told
    counters.failed(time.perf_counter_ns())
    assert counters.statistics().last_request_at_ms >= told.last_request_at_ms + 5
