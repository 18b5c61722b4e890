"""The metrics of a server: each worker publishes its own, any of them tells those of all."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from starlette.types import Receive, Scope, Send

from shoal.server.errors import answer
from shoal.serving.deferred_options import DeferredCounts
from shoal.serving.log import LogStatistics
from shoal.serving.messages import ModelStatistics
from shoal.telemetry.metrics import Kind, Metrics, exposition, merge
from shoal.telemetry.pages import Page

if TYPE_CHECKING:
    from shoal.ledger.prediction_records import Backlog
    from shoal.requests.lookups import LookupStats
    from shoal.requests.timed_cache import CacheStats

_PUBLISH_S: Final = 1.0
_NS: Final = 1e-9

_BETWEEN: Final = {
    "cache_hits": "Rows that the prediction cache answered",
    "cache_misses": "Rows that were not in the prediction cache",
    "lookup_rows": "Rows whose features were looked up",
    "lookup_fetches": "Questions to the sources of features",
    "lookup_timeouts": "Questions that took too long",
    "lookup_failures": "Questions that failed",
    "lookup_defaulted_rows": "Rows that got defaults for want of an answer",
    "lookup_skipped_rows": "Rows for which a source was not asked because it had failed again and again",
    "lookup_cache_hits": "Keys whose features were in the data cache",
    "lookup_cache_misses": "Keys whose features were not in the data cache",
}

_COUNTED: Final = (
    ("rows", "shoal_rows", "Rows scored", 1.0),
    ("batches", "shoal_kernel_calls", "Kernel calls; fewer than requests where several ran in one", 1.0),
    ("queue_ns", "shoal_queue_seconds", "Time that requests waited for a kernel call, in seconds", _NS),
    ("compute_ns", "shoal_compute_seconds", "Time that kernel calls took, in seconds", _NS),
)


_SHARED: Final = "; of all servers on the database, each of which tells it"

_STATES: Final = {
    "accepted": "Predictions that were accepted to be made later",
    "done": "Accepted predictions that were made, and durable results that came to their sink",
    "failed": "Accepted predictions that went to the dead letters",
    "expired": "Accepted predictions that were discarded at their deadline",
    "retried": "Attempts at accepted predictions that failed and are repeated",
}


class FleetCounters:
    """Counters per fleet, from statistics that begin anew when a fleet is loaded anew.

    Parameters
    ----------
    metrics : Metrics
        Where to count.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = [
            (field, metrics.metric(name, Kind.COUNTER, text, ("fleet",)), factor)
            for field, name, text, factor in _COUNTED
        ]
        self._before: dict[str, ModelStatistics] = {}

    def take(self, statistics: Sequence[ModelStatistics]) -> None:
        """Add what has come since the last time."""
        for one in statistics:
            before = self._before.get(one.name)
            fresh = before is None or before.requests + before.failures > one.requests + one.failures
            for field, metric, factor in self._metrics:
                more = getattr(one, field) - (0 if fresh else getattr(before, field))
                metric.add((one.name,), max(0, more) * factor)
        self._before = {one.name: one for one in statistics}


class LogCounters:
    """What the prediction log of a process does.

    Parameters
    ----------
    metrics : Metrics
        Where to count.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._rows = metrics.metric("shoal_prediction_log_rows", Kind.COUNTER, "Rows in files of the prediction log")
        self._dropped = metrics.metric(
            "shoal_prediction_log_dropped", Kind.COUNTER, "Requests that the prediction log had no room for"
        )
        self._waiting = metrics.metric(
            "shoal_prediction_log_waiting_bytes", Kind.SUM, "What waits to be written to the prediction log, in bytes"
        )
        self._before = LogStatistics(written_rows=0, dropped_requests=0, files=0, waiting_bytes=0)

    def take(self, statistics: LogStatistics) -> None:
        """Add what has come since the last time."""
        self._rows.add((), statistics.written_rows - self._before.written_rows)
        self._dropped.add((), statistics.dropped_requests - self._before.dropped_requests)
        self._waiting.set((), statistics.waiting_bytes)
        self._before = statistics


class DeferredCounters:
    """What becomes of predictions that nobody waits for, and how many wait.

    What was done is this process's. What waits is shared by all servers on the database, and every process looks at it
    once a second; so it is not added up: of several looks the one that saw most counts.

    Parameters
    ----------
    metrics : Metrics
        Where to count.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._counted = {
            name: metrics.metric(f"shoal_predictions_{name}", Kind.COUNTER, text) for name, text in _STATES.items()
        }
        self._waiting, self._claimed, self._oldest, self._dead = (
            metrics.metric(f"shoal_predictions_{name}", Kind.MAXIMUM, text + _SHARED)
            for name, text in (
                ("waiting", "Accepted predictions that wait for a worker"),
                ("claimed", "Accepted predictions that are being worked on"),
                ("oldest_seconds", "Since the first of those that wait was accepted, in seconds"),
                ("dead", "Predictions in the dead-letter list, counted up to 100,000"),
            )
        )
        self._before = dict.fromkeys(_STATES, 0)

    def take(self, counts: DeferredCounts, backlog: "Backlog", oldest_s: float) -> None:
        """Take what is now."""
        for name, metric in self._counted.items():
            number = getattr(counts, name)
            metric.add((), number - self._before[name])
            self._before[name] = number
        self._waiting.set((), backlog.waiting)
        self._claimed.set((), backlog.claimed)
        self._oldest.set((), oldest_s)
        self._dead.set((), backlog.dead)


class BetweenCounters:
    """How the prediction caches and lookups of fleets are doing.

    Parameters
    ----------
    metrics : Metrics
        Where to count.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._counted = {
            name: metrics.metric(f"shoal_{name}", Kind.COUNTER, text, ("fleet",)) for name, text in _BETWEEN.items()
        }
        self._age = metrics.metric(
            "shoal_cache_oldest_seconds", Kind.MAXIMUM, "Age of the oldest entry of the prediction cache", ("fleet",)
        )
        self._bytes = metrics.metric(
            "shoal_cache_bytes", Kind.SUM, "Memory that the entries of the prediction cache take", ("fleet",)
        )
        self._data_age = metrics.metric(
            "shoal_lookup_cache_oldest_seconds", Kind.MAXIMUM, "Age of the oldest entry of the data cache", ("fleet",)
        )
        self._data_bytes = metrics.metric(
            "shoal_lookup_cache_bytes", Kind.SUM, "Memory that the entries of the data cache take", ("fleet",)
        )
        self._open = metrics.metric(
            "shoal_lookup_open_circuits", Kind.SUM, "Workers that leave a source of features alone, as it fails",
            ("fleet",),
        )  # fmt: skip
        self._looking_up: set[str] = set()
        self._before: dict[tuple[str, str], int] = {}

    def take(self, between: "Mapping[str, tuple[LookupStats | None, CacheStats | None]]") -> None:
        """Take what is now."""
        self._leave_alone({fleet: lookup.is_open for fleet, (lookup, _) in between.items() if lookup is not None})
        for fleet, (lookup, cache) in between.items():
            if cache is not None:
                self._count(fleet, {"cache_hits": cache.hits, "cache_misses": cache.misses})
                if cache.size_bytes >= 0:  # what Redis holds, Redis tells
                    self._age.set((fleet,), cache.oldest_age_s)
                    self._bytes.set((fleet,), float(cache.size_bytes))
            if lookup is not None:
                self._count(fleet, {
                    "lookup_rows": lookup.rows,
                    "lookup_fetches": lookup.fetches,
                    "lookup_timeouts": lookup.timeouts,
                    "lookup_failures": lookup.failures,
                    "lookup_defaulted_rows": lookup.defaulted,
                    "lookup_skipped_rows": lookup.skipped,
                    "lookup_cache_hits": lookup.cache.hits,
                    "lookup_cache_misses": lookup.cache.misses,
                })  # fmt: skip
                self._data_age.set((fleet,), lookup.cache.oldest_age_s)
                self._data_bytes.set((fleet,), float(lookup.cache.size_bytes))

    def _leave_alone(self, is_open: Mapping[str, bool]) -> None:
        """Tell whose sources are left alone now; a fleet that has gone, or its lookup, leaves none alone any more."""
        self._looking_up |= is_open.keys()
        for fleet in self._looking_up:
            self._open.set((fleet,), float(is_open.get(fleet, False)))

    def _count(self, fleet: str, numbers: Mapping[str, int]) -> None:
        """Add what has come since; numbers that begin anew, as after a new spec, are added whole."""
        for name, number in numbers.items():
            before = self._before.get((fleet, name), 0)
            self._counted[name].add((fleet,), float(number - before if number >= before else number))
            self._before[fleet, name] = number


class Meter:
    """Publishes this process's metrics, and adds up those of all.

    Parameters
    ----------
    metrics : Metrics
        This process's.
    pages : sequence of Page
        One per process of the server.
    number : int
        Which of them is this process's.
    look : callable
        Brings gauges up to date; called before each publication.

    Attributes
    ----------
    ROUTES : sequence of (method, template)
        The lines of the permission table that it answers.
    """

    ROUTES: ClassVar[Sequence[tuple[str, str]]] = (("GET", "/metrics"),)

    def __init__(self, metrics: Metrics, pages: Sequence[Page], number: int, look: Callable[[], None]) -> None:
        self._metrics = metrics
        self._pages = pages
        self._own = pages[number]
        self._look = look
        before = self._own.read()
        if before is not None:
            metrics.adopt(before)

    def publish(self) -> None:
        """Let the other processes see the numbers as they are now."""
        self._look()
        self._own.write(self._metrics.dump())

    async def work(self) -> None:
        """Publish for ever."""
        while True:
            self.publish()
            await asyncio.sleep(_PUBLISH_S)

    def text(self) -> tuple[bytes, str]:
        """The metrics of all processes in the format of Prometheus, and its content type."""
        return exposition(merge(dump for page in self._pages if (dump := page.read()) is not None))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer ``GET /metrics``; adding up many series takes a while, so it is done beside the event loop."""
        self.publish()
        text, kind = await asyncio.to_thread(self.text)
        await answer(send, 200, text, kind=kind.encode())
