"""How predictions that nobody waits for are handled, and how many were."""

import msgspec

from shoal.errors import Overloaded, TooLarge
from shoal.ledger.prediction_records import Backlog


class DeferredOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How predictions that nobody waits for are handled.

    Attributes
    ----------
    batch : int
        Most predictions that a process works on at a time, beside those that wait for their sinks; nothing is claimed
        for a sink that so many wait for.
    lease_s : float
        After so long without a sign of life others take over what a process had claimed, in seconds.
    poll_s : float
        Seconds between two looks for what other processes accepted or settled.
    sweep_s : float
        Seconds between two looks for what came too late, and for what may be forgotten.
    attempts : int
        How often a prediction is tried before it goes to the dead-letter list.
    backoff_s, longest_backoff_s : float
        How long after the first failure the second attempt comes, in seconds; it doubles with each, up to the longest.
    keep_s : float
        How long results are kept, in seconds.
    backlog : int
        Most predictions that may wait; more are refused.
    backlog_bytes : int
        Most bytes of requests that may wait.
    request_bytes : int
        Largest request.
    waiters : int
        Most callers of a process that may wait for a result at a time.
    """

    batch: int = 512
    lease_s: float = 30.0
    poll_s: float = 0.2
    sweep_s: float = 1.0
    attempts: int = 5
    backoff_s: float = 0.5
    longest_backoff_s: float = 60.0
    keep_s: float = 86_400.0
    backlog: int = 200_000
    backlog_bytes: int = 2**30
    request_bytes: int = 2**20
    waiters: int = 10_000

    def require_room(self, size_bytes: int, backlog: Backlog) -> None:
        """Raise unless one more request may be taken on.

        Parameters
        ----------
        size_bytes : int
            Its size.
        backlog : Backlog
            What waits already.

        Raises
        ------
        TooLarge
            It is too large.
        Overloaded
            Too many wait.
        """
        if size_bytes > self.request_bytes:
            raise TooLarge(
                f"a request that nobody waits for may have {self.request_bytes} bytes at most, this one has "
                f"{size_bytes}; split it, or score files with `shoal score`"
            )
        if backlog.requests >= self.backlog or backlog.size_bytes + size_bytes > self.backlog_bytes:
            raise Overloaded(f"{backlog.requests} predictions are waiting already; try again later", retry_after_s=5.0)


class DeferredCounts(msgspec.Struct, kw_only=True):
    """What a process has done; only ever grows.

    Attributes
    ----------
    accepted, done, failed, expired, retried : int
        Predictions that were accepted, done (answered, or a durable result brought to its sink), given up, discarded,
        and given back to be tried again.
    """

    accepted: int = 0
    done: int = 0
    failed: int = 0
    expired: int = 0
    retried: int = 0
