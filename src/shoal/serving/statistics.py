"""What fleets were asked, counted as they answer."""

import time

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

    __slots__ = ("failures", "last_request_ns", "name", "request_ns", "requests", "tally", "version")

    def __init__(self, name: str, version: str, tally: Tally) -> None:
        self.name = name
        self.version = version
        self.tally = tally
        self.requests = self.failures = self.request_ns = 0
        self.last_request_ns = 0

    def answered(self, started_ns: int) -> None:
        """Count an answered request that came at this point of ``time.perf_counter_ns()``."""
        self.requests += 1
        self.request_ns += time.perf_counter_ns() - started_ns
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
            last_request_at_ms=(time.time_ns() - ago_ns) // 1_000_000 if self.last_request_ns else 0,
        )
