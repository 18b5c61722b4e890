"""What fleets were asked, counted as they answer."""

import time
from collections import OrderedDict

from shoal.requests.batcher import Tally
from shoal.serving.messages import ModelStatistics


class FleetCounters:
    """What one snapshot of a fleet was asked; only ever grows.

    Parameters
    ----------
    name, version : str
        The fleet and snapshot.
    tally : Tally
        What its batcher has done.
    """

    __slots__ = (
        "failures", "input_ns", "last_request_ns", "name", "output_ns", "request_ns", "requests", "tally", "version",
    )  # fmt: skip

    def __init__(self, name: str, version: str, tally: Tally) -> None:
        self.name = name
        self.version = version
        self.tally = tally
        self.requests = self.failures = self.request_ns = self.input_ns = self.output_ns = 0
        self.last_request_ns = 0

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
        """Count a request that was refused or failed."""
        self.failures += 1
        self.last_request_ns = started_ns

    def statistics(self) -> ModelStatistics:
        """The counters as doors show them."""
        ago_ns = time.perf_counter_ns() - self.last_request_ns
        return ModelStatistics(
            name=self.name,
            version=self.version,
            requests=self.requests,
            failures=self.failures,
            rows=self.tally.rows,
            batches=self.tally.batches,
            queue_ns=self.tally.queue_ns,
            compute_ns=self.tally.compute_ns,
            request_ns=self.request_ns,
            input_ns=self.input_ns,
            output_ns=self.output_ns,
            last_request_at_ms=(time.time_ns() - ago_ns) // 1_000_000 if self.last_request_ns else 0,
        )


#: Snapshots of a fleet whose counters are kept apart after they were replaced.
KEPT_VERSIONS = 16


class FleetHistory:
    """What a fleet's earlier snapshots were asked.

    Parameters
    ----------
    name : str
        The fleet.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._retired: OrderedDict[str, list[FleetCounters]] = OrderedDict()
        self._older = ModelStatistics(name=name, version="")

    def retire(self, counters: FleetCounters) -> None:
        """Remember a snapshot's counters, which may still grow while its last requests end."""
        self._retired.setdefault(counters.version, []).append(counters)
        self._retired.move_to_end(counters.version)
        while len(self._retired) > KEPT_VERSIONS:
            _, old = self._retired.popitem(last=False)
            self._older = total("", self._older, *[one.statistics() for one in old])

    def versions(self, current: FleetCounters | None) -> list[ModelStatistics]:
        """Statistics of each snapshot that is remembered, the present one last."""
        groups = {version: [one.statistics() for one in group] for version, group in self._retired.items()}
        if current is not None:
            groups[current.version] = [*groups.pop(current.version, []), current.statistics()]
        return [total(version, *group) for version, group in groups.items()]

    def total(self, current: FleetCounters | None) -> ModelStatistics:
        """Statistics over all snapshots, with an empty version; they never shrink."""
        return total("", self._older, *self.versions(current))


def total(version: str, first: ModelStatistics, *others: ModelStatistics) -> ModelStatistics:
    """The sum of statistics, under a version."""
    every = (first, *others)
    counts = {name: sum(getattr(one, name) for one in every) for name in COUNTS}
    last = max(one.last_request_at_ms for one in every)
    return ModelStatistics(name=first.name, version=version, last_request_at_ms=last, **counts)


COUNTS = (
    "requests", "failures", "rows", "batches", "queue_ns", "compute_ns", "request_ns", "input_ns", "output_ns",
)  # fmt: skip
"""The fields of statistics that add up."""
