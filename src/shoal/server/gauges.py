"""What a process of the server stands at: how busy it is, whether it can answer, how its fleets do."""

from shoal.server.metrics import BetweenCounters, FleetCounters, LogCounters
from shoal.serving.plane import DataPlane
from shoal.telemetry.metrics import Kind, Metrics


class Gauges:
    """What a process stands at, and the counters of its fleets.

    Parameters
    ----------
    metrics : Metrics
        Where they are written.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._connections = metrics.metric("shoal_connections", Kind.SUM, "Open connections")
        self._under_way = metrics.metric("shoal_requests_under_way", Kind.SUM, "Requests being answered")
        self._dropped = metrics.metric("shoal_log_lines_dropped", Kind.SUM, "Log lines that found the queue full")
        self._ready = metrics.metric("shoal_workers_ready", Kind.SUM, "Workers that can answer")
        self._staleness = metrics.metric(
            "shoal_registry_staleness_seconds", Kind.MAXIMUM, "Since the registry last answered, in seconds"
        )
        self._missed = metrics.metric(
            "shoal_fleet_missed", Kind.SUM, "Workers that cannot serve the snapshot that they should", ("fleet",)
        )
        self._missing: set[str] = set()
        self._fleets = FleetCounters(metrics)
        self._log = LogCounters(metrics)
        self._between = BetweenCounters(metrics)

    def take(self, connections: int, under_way: int, dropped: int, plane: DataPlane | None) -> None:
        """Take what is now.

        Parameters
        ----------
        connections, under_way, dropped : int
            Open connections, requests being answered, and log lines that found the queue full so far.
        plane : DataPlane or None
            None where the process manages and serves no fleet.
        """
        self._connections.set((), connections)
        self._under_way.set((), under_way)
        self._dropped.set((), dropped)
        if plane is not None:
            self._ready.set((), float(plane.ready()))
            self._staleness.set((), plane.staleness_s())
            self._miss(set(plane.missed()))
            self._fleets.take(plane.totals())
            self._between.take(plane.between())
            if (kept := plane.kept()) is not None:
                self._log.take(kept)

    def _miss(self, missing: set[str]) -> None:
        for fleet in missing | self._missing:
            self._missed.set((fleet,), float(fleet in missing))
        self._missing |= missing
