"""The one tree of errors.

::

    ShoalError
    ├── InvalidInput            what the caller handed in cannot be used
    │   ├── InvalidSpec         a job description with a missing, unknown or wrong field
    │   └── UnsupportedEstimator  a fitted estimator no family can lay out; names the part
    ├── NotFound                no such fleet, snapshot, alias, model or run
    ├── Conflict                somebody else was first, or the world changed underneath
    │   ├── InputChanged        an input file is not the one the run pinned
    │   ├── OutputExists        the output is already there and may not be replaced
    │   └── LeaseLost           a shard is held by another worker by now
    ├── InvalidArtifact         a stored file is damaged, tampered with or crafted
    ├── TooManyErrors           a run passed its ``max_errors``
    ├── TooLarge                a request has more rows or bytes than is allowed
    ├── Unauthenticated         nobody we know: no API key, or one that is wrong, expired or revoked
    ├── Forbidden               somebody we know, who may not do this
    ├── Unavailable             not now: try again after ``retry_after_s``
    │   ├── NotReady            a server or a fleet is still starting, or ends
    │   │   └── Unloaded        somebody unloaded the fleet; it does not come back by itself
    │   └── Overloaded          a queue is full
    ├── DeadlineExceeded        the answer would have come too late; nothing was lost but time
    └── StorageError            the disk is full, a folder is not writable, a database is gone
        └── ConnectionFailed    a source or sink of the user's cannot be reached, or answers what it should not

Every message says what to do next. Status codes of protocols live in the doors, not here.

Files, addresses and a driver's words go into ``detail``: whoever runs Shoal reads it, callers of a server do not.
"""


class ShoalError(Exception):
    """Root of all errors that Shoal raises on purpose.

    Parameters
    ----------
    message : str
        What happened, and what to do.
    detail : str
        What only whoever runs Shoal should read. It is in the error's text; servers log it and tell the message.

    Attributes
    ----------
    message, detail : str
        As given.
    """

    def __init__(self, message: str = "", *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message} ({self.detail})" if self.detail else self.message


class InvalidInput(ShoalError):
    """What the caller handed in cannot be used."""


class InvalidSpec(InvalidInput):
    """A job description has a missing, unknown or wrong field."""


class UnsupportedEstimator(InvalidInput):
    """No family can lay out this fitted estimator.

    Attributes
    ----------
    part : str
        The step, parameter or class that stopped it.
    """

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"{part}: {reason}")
        self.part = part
        self.reason = reason

    def __reduce__(self) -> tuple[type["UnsupportedEstimator"], tuple[str, str]]:
        return UnsupportedEstimator, (self.part, self.reason)


class NotFound(ShoalError):
    """No such fleet, snapshot, alias, model or run."""


class Conflict(ShoalError):
    """Somebody else was first, or the world changed underneath."""


class InputChanged(Conflict):
    """An input file is not the one that the run pinned at its start."""


class OutputExists(Conflict):
    """The output is already there and the job may not replace it."""


class LeaseLost(Conflict):
    """The shard's lease ran out and another worker holds it by now."""


class InvalidArtifact(ShoalError):
    """A stored file is damaged, tampered with or crafted; it was not opened."""


class TooManyErrors(ShoalError):
    """A run met more rows it could not score than its ``max_errors`` allows."""


class TooLarge(ShoalError):
    """A request has more rows or bytes than is allowed."""


class Unauthenticated(ShoalError):
    """The caller is nobody we know."""


class Forbidden(ShoalError):
    """The caller may not do this."""


class Unavailable(ShoalError):
    """It cannot be done now.

    Attributes
    ----------
    retry_after_s : float or None
        When trying again makes sense, in seconds from now; None where it only does after somebody did something.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = 1.0, detail: str = "") -> None:
        super().__init__(message, detail=detail)
        self.retry_after_s = retry_after_s


class NotReady(Unavailable):
    """A server or a fleet is still starting, or ends."""


class Unloaded(NotReady):
    """A fleet was unloaded on purpose; it is served again once somebody loads it."""


class Overloaded(Unavailable):
    """A queue is full; nothing was taken on."""


class DeadlineExceeded(ShoalError):
    """The answer would have come after the caller's deadline."""


class StorageError(ShoalError):
    """Reading or writing failed for a reason outside Shoal, such as a full disk."""


class ConnectionFailed(StorageError):
    """A named source or sink failed. Its message is fit for callers, other than that of its parent."""
