"""A fleet's place in the catalog: what should be served, what is, and why that is not the same."""

import asyncio
import logging
import time

from shoal.errors import InvalidArtifact, InvalidInput, NotFound, NotReady, StorageError, Unloaded
from shoal.serving.desired import Wanted
from shoal.serving.messages import IndexEntry, ModelStatistics
from shoal.serving.served import ServedFleet
from shoal.serving.statistics import FleetCounters, FleetHistory

READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"

#: A snapshot that could not be opened is tried again after so many seconds.
RETRY_S = 10.0

#: Why a snapshot cannot be served, where that is all that callers may know.
DAMAGED = "its files are damaged or cannot be read"

_log = logging.getLogger(__name__)


class Slot:
    """A fleet's place in the catalog.

    Attributes
    ----------
    name : str
        The fleet.
    served : ServedFleet or None
        What answers now.
    wanted : Wanted
        What should. Where that is nothing because no snapshot can be found, what is served stays.
    reason : str
        Why what should be served is not, as far as callers may know it.
    detail : str
        What else there is to say of it, for whoever runs the server: files, addresses, a driver's words.
    following : Task or None
        The opening that is under way.
    history : FleetHistory
        What the fleet was asked, under any snapshot.
    """

    __slots__ = ("_numbered", "detail", "failed_at_s", "following", "history", "name", "reason", "served", "wanted")

    def __init__(self, wanted: Wanted) -> None:
        self.name = wanted.fleet
        self.served: ServedFleet | None = None
        self.wanted = wanted
        self.reason, self.detail = wanted.reason, ""
        self.failed_at_s = 0.0
        self.following: asyncio.Task[None] | None = None
        self.history = FleetHistory(wanted.fleet)
        self._numbered: list[FleetCounters] = []

    def want(self, wanted: Wanted) -> None:
        """Take note of what should be served."""
        if wanted != self.wanted:
            self.failed_at_s, self.reason, self.detail = 0.0, wanted.reason, ""
        self.wanted = wanted

    def behind(self) -> bool:
        """Whether something else should be served, nobody is about it, and it is time to try."""
        wanted = self.wanted
        if not wanted.loaded or wanted.snapshot is None or (self.following is not None and not self.following.done()):
            return False
        if self.served is not None and self.served.wanted == wanted:
            return False
        return not self.failed_at_s or time.monotonic() - self.failed_at_s >= RETRY_S

    def replace(self, served: ServedFleet | None) -> ServedFleet | None:
        """Answer from another snapshot from now on, or from none; returns the old one, which may still be busy."""
        old, self.served = self.served, served
        if served is not None:
            self.reason, self.detail, self.failed_at_s = self.wanted.reason, "", 0.0
        if old is not None:
            self.history.retire(old.counters)
        return old

    def open(self, counters: FleetCounters) -> None:
        """Count what a snapshot is asked by its number, beside the one that answers for the fleet."""
        self._numbered.append(counters)

    def shut(self, counters: FleetCounters) -> None:
        """Remember what it was asked."""
        if counters in self._numbered:  # not where the fleet was gone from here for a while
            self._numbered.remove(counters)
            self.history.retire(counters)

    def fail(self, wanted: Wanted, error: Exception) -> None:
        """Say why something cannot be served; what is served stays."""
        if wanted == self.wanted and wanted.snapshot is not None:
            self.failed_at_s = time.monotonic()
            before = self.reason, self.detail
            cause, self.detail = _told(error)
            self.reason = f"snapshot {wanted.snapshot.version} cannot be served: {cause}"
            if before != (self.reason, self.detail):  # it is tried again and again, and told once
                still = f"version {self.served.version} goes on" if self.served else "nothing answers for it"
                _log.warning("fleet %s: %s; %s", self.name, self.why(), still)

    @property
    def told(self) -> str:
        """Why what should be served is not, and where there is more to be read."""
        return f"{self.reason}; the server's log says more" if self.detail else self.reason

    def why(self) -> str:
        """All that there is to say of why what should be served is not, for whoever runs the server."""
        return f"{self.reason} ({self.detail})" if self.detail else self.reason

    def refusal(self) -> NotReady:
        """What to tell whoever wanted it loaded and does not get that, or not now."""
        if not self.wanted.loaded:
            meanwhile = f"the fleet {self.name!r} was unloaded meanwhile; load it again if it is to be served"
            return Unloaded(meanwhile, retry_after_s=None)
        still = "is not served" if self.served is None else f"is served from version {self.served.version} still"
        return NotReady(f"fleet {self.name!r} {still}: {self.reason or 'it is still being opened'}", detail=self.detail)

    def missed(self) -> int | None:
        """The version that should be served and cannot be; None where all is as it should be."""
        snapshot = self.wanted.snapshot
        if snapshot is None or not self.failed_at_s or not self.wanted.loaded:
            return None
        return snapshot.version

    def was_asked(self) -> bool:
        """Whether there is anything to tell in statistics."""
        return bool(self.history) or any(counters.requests or counters.failures for counters in self._counting())

    def statistics(self) -> list[ModelStatistics]:
        """What the fleet was asked, per snapshot, the present one last."""
        return self.history.versions(self._counting())

    def total(self) -> ModelStatistics:
        """What the fleet was asked under all snapshots."""
        return self.history.total(self._counting())

    def _counting(self) -> list[FleetCounters]:
        """The counters that may still grow, those of the present snapshot last."""
        return self._numbered if self.served is None else [*self._numbered, self.served.counters]

    def entry(self) -> IndexEntry:
        """The slot as the repository's index shows it."""
        if self.served is not None:
            return IndexEntry(name=self.name, version=self.served.version, state=READY, reason=self.told)
        wanted = self.wanted
        version = str(wanted.snapshot.version) if wanted.snapshot else ""
        waits = wanted.loaded and wanted.snapshot is not None and not self.failed_at_s
        return IndexEntry(name=self.name, version=version, state=LOADING if waits else UNAVAILABLE, reason=self.told)


def _told(error: Exception) -> tuple[str, str]:
    """What callers may know of why a snapshot cannot be served, and what else there is to say."""
    if isinstance(error, InvalidInput | NotFound):  # its serving spec does not fit, or something is not there
        return error.message, error.detail
    if isinstance(error, InvalidArtifact | StorageError):
        return f"{DAMAGED}; restore them, or promote another", str(error)
    return "something went wrong here", f"{type(error).__name__}: {error}"
