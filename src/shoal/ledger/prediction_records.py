"""What the ledger keeps of predictions, as values. They are made by the thousand per second: msgspec structs."""

import datetime as dt
import enum
from collections.abc import Sequence

import msgspec

from shoal.errors import Conflict
from shoal.jobs.states import PredictionState


class PredictionKind(enum.StrEnum):
    """Why a prediction is kept."""

    DEFERRED = "deferred"
    """Asked for without waiting."""
    STORED = "stored"
    """Of a fleet whose results are durable: committed before it was answered."""


class NewPrediction(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A prediction to be kept.

    Attributes
    ----------
    kind : PredictionKind
        Why.
    fleet : str
        Who is to answer, or did.
    principal, request_id : str
        Who asked, and with which request.
    request : bytes
        What was asked; the ledger does not look into it.
    answer : bytes or None
        What was answered, where that is known.
    ordering_key : str or None
        Predictions of one fleet with the same key are made one after the other, in the order they were accepted.
    idempotency_key : str or None
        The same key of the same principal is the same prediction.
    sink : str or None
        Where the result is to go.
    deadline_s : float or None
        After so many seconds nobody wants it any more.
    keep_s : float or None
        How long a durable result is kept, in seconds; for ever unless told. How long others are kept is for those to
        say who settle them.
    most_attempts : int
        How often it may be tried.
    """

    kind: PredictionKind
    fleet: str
    principal: str
    request_id: str
    request: bytes
    answer: bytes | None = None
    ordering_key: str | None = None
    idempotency_key: str | None = None
    sink: str | None = None
    deadline_s: float | None = None
    keep_s: float | None = None
    most_attempts: int = 5


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction that is kept from now on, or was already.

    Attributes
    ----------
    id : str
        Its name.
    state : PredictionState
        Where it stands: whoever sends a request again may find it done.
    is_new : bool
        False: it was kept before, by the same idempotency key.
    """

    id: str
    state: PredictionState
    is_new: bool = True


class PredictionClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction that somebody works on.

    Attributes
    ----------
    id, number : str, int
        Which it is; numbers are in the order of acceptance.
    kind : PredictionKind
        Why it is kept.
    owner, attempt : str, int
        Who holds it, and for the how manieth time it is held.
    most_attempts : int
        How often it may be tried.
    fleet, principal, request_id, sink : str
        As in :class:`NewPrediction`.
    request : bytes
        What was asked.
    answer : bytes or None
        What was answered already, where only the sink has to get it.
    delivery : str or None
        What the sink noted for itself before it was asked to deliver.
    accepted_at : datetime
        When it was accepted.
    expires_at : datetime or None
        When nobody wants it any more.
    left_s : float or None
        How long that was away when it was claimed, in seconds.
    keep_s : float or None
        As in :class:`NewPrediction`.
    """

    id: str
    number: int
    kind: PredictionKind
    owner: str
    attempt: int
    most_attempts: int
    fleet: str
    principal: str
    request_id: str
    sink: str | None
    request: bytes
    answer: bytes | None
    delivery: str | None
    accepted_at: dt.datetime
    expires_at: dt.datetime | None
    left_s: float | None
    keep_s: float | None


class PredictionResult(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a prediction that was claimed.

    Attributes
    ----------
    claim : PredictionClaim
        The prediction.
    state : PredictionState
        Where it goes: ``waiting`` to be tried again, ``claimed`` to be kept and go on with.
    answer : bytes or None
        What was answered, kept whatever becomes of the prediction; None leaves what is kept as it is.
    delivery : str or None
        What a sink has to remember.
    error : str or None
        What went wrong.
    delay_s : float
        How long to wait before the next attempt, in seconds.
    counts : bool
        Whether the attempt counts against ``most_attempts``.
    durable : NewPrediction or None
        A durable result that is kept from the moment that this is written; once, if it comes again.
    """

    claim: PredictionClaim
    state: PredictionState
    answer: bytes | None = None
    delivery: str | None = None
    error: str | None = None
    delay_s: float = 0.0
    counts: bool = True
    durable: NewPrediction | None = None

    @property
    def following(self) -> PredictionState:
        """Where it really goes: to the dead letters if this was the last attempt."""
        is_last = self.claim.attempt >= self.claim.most_attempts
        if self.state is PredictionState.WAITING and self.counts and is_last:
            return PredictionState.FAILED
        return self.state


class PredictionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction as it stands.

    Attributes
    ----------
    id : str
        Its name.
    kind, state : PredictionKind, PredictionState
        Why it is kept, and where it stands.
    fleet, principal, request_id : str
        Who is asked, and by whom.
    ordering_key, idempotency_key, sink : str or None
        As in :class:`NewPrediction`.
    attempts : int
        How often it was claimed.
    accepted_at : datetime
        When it was accepted, UTC.
    due_at, expires_at, settled_at, forget_at : datetime or None
        When it may be tried again, is discarded, was settled, and is forgotten.
    error : str or None
        What went wrong last.
    request : bytes or None
        What was asked; None in lists.
    answer : bytes or None
        What was answered; None in lists.
    """

    id: str
    kind: PredictionKind
    state: PredictionState
    fleet: str
    principal: str
    request_id: str
    ordering_key: str | None
    idempotency_key: str | None
    sink: str | None
    attempts: int
    accepted_at: dt.datetime
    due_at: dt.datetime | None
    expires_at: dt.datetime | None
    settled_at: dt.datetime | None
    forget_at: dt.datetime | None
    error: str | None
    request: bytes | None = None
    answer: bytes | None = None

    @property
    def is_settled(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state not in (PredictionState.WAITING, PredictionState.CLAIMED)


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """What is waiting or being worked on, whoever accepted it.

    Attributes
    ----------
    waiting, claimed : int
        How many predictions wait, and how many somebody works on.
    size_bytes : int
        Their requests' bytes.
    oldest_s : float
        How long ago the first of those that wait was accepted, in seconds; 0 where none waits.
    dead : int
        Predictions in the dead-letter list; counted up to :data:`~prediction_queue.MOST_COUNTED`.
    """

    waiting: int = 0
    claimed: int = 0
    size_bytes: int = 0
    oldest_s: float = 0.0
    dead: int = 0

    @property
    def requests(self) -> int:
        """How many predictions are not settled."""
        return self.waiting + self.claimed

    def more(self, requests: int, size_bytes: int) -> "Backlog":
        """The backlog with some more that wait."""
        return msgspec.structs.replace(self, waiting=self.waiting + requests, size_bytes=self.size_bytes + size_bytes)


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at all predictions found, and did.

    Attributes
    ----------
    backlog : Backlog
        What waited or was being worked on before.
    look_s : float
        How long it took to find that out, in seconds.
    expired, failed : int
        Predictions that were discarded, and given up, by it.
    """

    backlog: Backlog
    look_s: float
    expired: int = 0
    failed: int = 0


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions that somebody would take.

    Attributes
    ----------
    fleets : sequence of str
        Only predictions of these.
    owner : str
        Who takes them; unique among all workers.
    lease_s : float
        Seconds until others may take them over.
    limit : int
        How many at most.
    full_sinks : sequence of str
        None that goes to one of these.
    """

    fleets: Sequence[str]
    owner: str
    lease_s: float
    limit: int
    full_sinks: Sequence[str] = ()


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What one transaction did.

    Attributes
    ----------
    settled : set of int
        The numbers of the results' predictions that were still held.
    accepted : list of Acceptance or Conflict
        What was accepted, in the order given, or why it was not.
    claims : list of PredictionClaim
        What was claimed.
    """

    settled: set[int]
    accepted: list[Acceptance | Conflict]
    claims: list[PredictionClaim]
