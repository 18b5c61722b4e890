"""What caches and lookups do shows in the metrics, and numbers that begin anew take nothing back."""

from shoal.requests.lookups import LookupStats
from shoal.requests.timed_cache import CacheStats
from shoal.server.metrics import BetweenCounters
from shoal.telemetry.metrics import Metrics, exposition, merge


def told(metrics):
    text, _ = exposition(merge([metrics.dump()]))
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_hits_misses_and_age_are_counted_by_fleet():
    metrics = Metrics()
    counters = BetweenCounters(metrics)
    counters.take({"pumps": (None, CacheStats(hits=3, misses=2, size_bytes=500, oldest_age_s=1.5))})
    counters.take({"pumps": (None, CacheStats(hits=4, misses=2, size_bytes=400, oldest_age_s=2.5))})
    seen = told(metrics)
    assert seen['shoal_cache_hits_total{fleet="pumps"}'] == 4
    assert seen['shoal_cache_misses_total{fleet="pumps"}'] == 2
    assert seen['shoal_cache_bytes{fleet="pumps"}'] == 400
    assert seen['shoal_cache_oldest_seconds{fleet="pumps"}'] == 2.5


def test_of_redis_nothing_is_told_that_is_not_known():
    metrics = Metrics()
    BetweenCounters(metrics).take({"pumps": (None, CacheStats(hits=3, misses=2, entries=-1, size_bytes=-1))})
    assert {name for name in told(metrics) if "pumps" in name} == {
        'shoal_cache_hits_total{fleet="pumps"}',
        'shoal_cache_misses_total{fleet="pumps"}',
    }


def test_the_data_cache_is_counted_beside_the_lookups():
    metrics = Metrics()
    counters = BetweenCounters(metrics)
    counters.take({"pumps": (LookupStats(cache=CacheStats(hits=3, misses=2, size_bytes=70, oldest_age_s=4)), None)})
    seen = told(metrics)
    assert seen['shoal_lookup_cache_hits_total{fleet="pumps"}'] == 3
    assert seen['shoal_lookup_cache_misses_total{fleet="pumps"}'] == 2
    assert seen['shoal_lookup_cache_bytes{fleet="pumps"}'] == 70
    assert seen['shoal_lookup_cache_oldest_seconds{fleet="pumps"}'] == 4


def test_counts_go_on_when_a_new_spec_begins_anew():
    metrics = Metrics()
    counters = BetweenCounters(metrics)
    for rows, timeouts in ((10, 1), (2, 0), (5, 2)):
        counters.take({"pumps": (LookupStats(rows=rows, timeouts=timeouts), None)})
    seen = told(metrics)
    assert seen['shoal_lookup_rows_total{fleet="pumps"}'] == 10 + 2 + 3
    assert seen['shoal_lookup_timeouts_total{fleet="pumps"}'] == 1 + 0 + 2


def test_a_source_that_is_left_alone_is_told_until_it_is_asked_again_or_its_fleet_has_gone():
    metrics = Metrics()
    counters = BetweenCounters(metrics)
    name = 'shoal_lookup_open_circuits{fleet="pumps"}'
    counters.take({"pumps": (LookupStats(), None)})
    assert told(metrics)[name] == 0
    for later in ({"pumps": (LookupStats(), None)}, {"pumps": (None, None)}, {}):
        counters.take({"pumps": (LookupStats(is_open=True, skipped=7), None)})
        assert told(metrics)[name] == 1
        counters.take(later)
        assert told(metrics)[name] == 0
    assert told(metrics)['shoal_lookup_skipped_rows_total{fleet="pumps"}'] >= 7
