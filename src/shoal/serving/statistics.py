"""What fleets were asked, counted as they answer."""

import time
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence

import msgspec

from shoal.requests.batcher import Tally
from shoal.serving.messages import ModelStatistics
from shoal.telemetry.pages import Page


class CacheTally:
    """How many rows the prediction cache of a snapshot has answered, and how many it has not."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = self.misses = 0


class FleetCounters:
    """What one snapshot of a fleet was asked; only ever grows.

    Parameters
    ----------
    name, version : str
        The fleet and snapshot.
    tally : Tally
        What its batcher has done.
    cache : CacheTally, optional
        What its prediction cache has done.
    """

    __slots__ = (
        "_last", "cache", "failure_ns", "failures", "input_ns", "last_request_ns", "name", "output_ns", "request_ns",
        "requests", "tally", "version",
    )  # fmt: skip

    def __init__(self, name: str, version: str, tally: Tally, cache: CacheTally | None = None) -> None:
        self.name = name
        self.version = version
        self.tally = tally
        self.cache = cache or CacheTally()
        self.requests = self.failures = 0
        self.request_ns = self.failure_ns = self.input_ns = self.output_ns = 0
        self.last_request_ns = 0
        self._last = (0, 0)

    def answered(self, started_ns: int, read_ns: int, found_ns: int) -> None:
        """Count an answered request, when its outputs are made.

        Parameters
        ----------
        started_ns, read_ns, found_ns : int
            Points of ``time.perf_counter_ns()`` when it came, when its inputs were columns, and when there was an
            answer for them.
        """
        now_ns = time.perf_counter_ns()
        self.requests += 1
        self.request_ns += now_ns - started_ns
        self.input_ns += read_ns - started_ns
        self.output_ns += now_ns - found_ns
        self.last_request_ns = started_ns

    def failed(self, started_ns: int) -> None:
        """Count a request that was refused or failed, when it is; ``started_ns`` as of :meth:`answered`."""
        self.failures += 1
        self.failure_ns += time.perf_counter_ns() - started_ns
        self.last_request_ns = started_ns

    def statistics(self) -> ModelStatistics:
        """The counters as doors show them."""
        return ModelStatistics(
            name=self.name,
            version=self.version,
            requests=self.requests,
            failures=self.failures,
            rows=self.tally.rows,
            batches=self.tally.batches,
            cache_hits=self.cache.hits,
            cache_misses=self.cache.misses,
            queue_ns=self.tally.queue_ns,
            compute_ns=self.tally.compute_ns,
            request_ns=self.request_ns,
            failure_ns=self.failure_ns,
            input_ns=self.input_ns,
            output_ns=self.output_ns,
            last_request_at_ms=self._last_request_at_ms(),
        )

    def _last_request_at_ms(self) -> int:
        """When the last request came; found out once for each, as two clocks never give the same moment twice."""
        if self._last[0] != self.last_request_ns:
            ago_ns = time.perf_counter_ns() - self.last_request_ns
            self._last = (self.last_request_ns, (time.time_ns() - ago_ns) // 1_000_000)
        return self._last[1]


#: Snapshots of a fleet whose counters are kept apart after they were replaced.
KEPT_VERSIONS = 16

#: Counters of one snapshot that may still grow, when it is replaced again and again; older ones are added up.
KEPT_COUNTERS = 16


class FleetHistory:
    """What a fleet's earlier snapshots were asked.

    Parameters
    ----------
    name : str
        The fleet.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._retired: OrderedDict[str, _Retired] = OrderedDict()
        self._older = ModelStatistics(name=name, version="")

    def __bool__(self) -> bool:
        """Whether there were any."""
        return bool(self._retired)

    def retire(self, counters: FleetCounters) -> None:
        """Remember a snapshot's counters, which may still grow while its last requests end."""
        version = counters.version
        self._retired.setdefault(version, _Retired(self.name, version)).add(counters)
        self._retired.move_to_end(version)
        while len(self._retired) > KEPT_VERSIONS:
            _, old = self._retired.popitem(last=False)
            self._older = total("", self._older, old.statistics())

    def versions(self, counting: Sequence[FleetCounters]) -> list[ModelStatistics]:
        """Statistics of each snapshot that is remembered or still counts, in the order in which they come last."""
        groups = {version: [retired.statistics()] for version, retired in self._retired.items()}
        for one in counting:
            groups[one.version] = [*groups.pop(one.version, []), one.statistics()]
        return [total(version, *group) for version, group in groups.items()]

    def total(self, counting: Sequence[FleetCounters]) -> ModelStatistics:
        """Statistics over all snapshots, with an empty version; they never shrink."""
        return total("", self._older, *self.versions(counting))


class _Retired:
    """What one snapshot was asked, each of the times when it was served."""

    def __init__(self, name: str, version: str) -> None:
        self._before = ModelStatistics(name=name, version=version)
        self._counters: deque[FleetCounters] = deque()

    def add(self, counters: FleetCounters) -> None:
        self._counters.append(counters)
        if len(self._counters) > KEPT_COUNTERS:
            self._before = total(counters.version, self._before, self._counters.popleft().statistics())

    def statistics(self) -> ModelStatistics:
        return total(self._before.version, self._before, *[one.statistics() for one in self._counters])


def total(version: str, first: ModelStatistics, *others: ModelStatistics) -> ModelStatistics:
    """The sum of statistics, under a version."""
    every = (first, *others)
    counts = {name: sum(getattr(one, name) for one in every) for name in COUNTS}
    last = max(one.last_request_at_ms for one in every)
    return ModelStatistics(name=first.name, version=version, last_request_at_ms=last, **counts)


COUNTS = (
    "requests",
    "failures",
    "rows",
    "batches",
    "cache_hits",
    "cache_misses",
    "queue_ns",
    "compute_ns",
    "request_ns",
    "failure_ns",
    "input_ns",
    "output_ns",
)
"""The fields of statistics that add up."""


class SharedStatistics:
    """The statistics of all processes of a server: each publishes its own, any of them adds up those of all.

    Parameters
    ----------
    pages : sequence of Page
        One per process of the server.
    number : int
        Which of them is this process's; what a process before it has left there is gone on from.
    """

    def __init__(self, pages: Sequence[Page], number: int) -> None:
        self._own = pages[number]
        self._others = [page for page in pages if page is not self._own]
        self._before = _read(self._own)

    def publish(self, statistics: Sequence[ModelStatistics]) -> None:
        """Let the other processes see this one's."""
        self._own.write(_encoder.encode(_summed([*self._before, *statistics])))

    def with_others(self, statistics: Sequence[ModelStatistics], fleets: Collection[str]) -> list[ModelStatistics]:
        """The statistics of some fleets, of this process and all others together, per fleet and snapshot."""
        elsewhere = [*self._before, *[one for page in self._others for one in _read(page)]]
        return _summed([*[one for one in elsewhere if one.name in fleets], *statistics])


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[ModelStatistics])


def _read(page: Page) -> list[ModelStatistics]:
    content = page.read()
    return [] if content is None else _decoder.decode(content)


def _summed(statistics: Sequence[ModelStatistics]) -> list[ModelStatistics]:
    """One for each fleet and snapshot, by name; snapshots in the order in which they come last."""
    groups: dict[tuple[str, str], list[ModelStatistics]] = {}
    for one in statistics:
        key = one.name, one.version
        groups[key] = [*groups.pop(key, []), one]
    summed = [total(version, *group) for (_, version), group in groups.items()]
    return sorted(summed, key=lambda one: one.name)
