"""What fleets were asked, as it is told."""

import time

from shoal.requests.batcher import Tally
from shoal.serving.statistics import FleetCounters


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
