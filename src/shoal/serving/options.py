"""How a data plane serves: polling, queues, limits."""

from typing import Final

import msgspec

QUEUED_REQUESTS: Final = 8
"""So many of the largest requests may wait for one fleet; their bytes are bounded besides."""


class ServingOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a data plane serves.

    Attributes
    ----------
    poll_s : float
        Seconds between two looks at the registry.
    batching : bool
        Whether requests that wait at the same moment run in one kernel call; False is for measuring what that brings.
    queue_rows : int
        Rows that may wait for one fleet, if eight of the largest requests have no more.
    queue_bytes : int
        Bytes that may wait in the whole process.
    max_rows : int
        Rows of one request.
    versions : int
        Snapshots that are kept open because somebody asked for them by number, beside those that are served.
    inline_s : float
        Kernel calls that are expected to take no longer run in the event loop, others in a thread, in seconds.
    call_s : float
        How long one kernel call should take at most, in seconds; what is larger is cut, so that others get their turn.
    load_s : float
        How long :meth:`DataPlane.load` waits for this server to follow, in seconds.
    """

    poll_s: float = 0.25
    batching: bool = True
    queue_rows: int = 200_000
    queue_bytes: int = 256 * 2**20
    max_rows: int = 200_000
    versions: int = 4
    inline_s: float = 0.002
    call_s: float = 0.02
    load_s: float = 60.0

    @property
    def most_waiting_rows(self) -> int:
        """Rows that may wait for one fleet."""
        return max(self.queue_rows, QUEUED_REQUESTS * self.max_rows)

    def most_rows(self, wished: int | None) -> int:
        """Rows of one request of a fleet that may have a narrower limit of its own."""
        return min(self.max_rows, wished or self.max_rows)
