"""What stands before gRPC calls: the same ids, keys, limits, metrics, access log and traces as before REST."""

import time
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import unquote

import msgspec

from shoal.server.authentication import KeyRing
from shoal.server.observation import ERRORS_FROM, AccessLog
from shoal.server.permissions import CALLS
from shoal.server.request_ids import Ids
from shoal.server.under_way import Held, Turn, UnderWay
from shoal.serving.messages import RequestContext
from shoal.telemetry.metrics import SECONDS, Kind, Metrics
from shoal.telemetry.traces import Traced, Tracer

SERVICE: Final = "inference.GRPCInferenceService"
"""The one service there is."""

REQUEST_ID: Final = "x-request-id"
"""Metadata that a request id comes in and is returned in."""

_DEADLINE: Final = "request-timeout"


class Visit(msgspec.Struct, kw_only=True):
    """A call that is being answered.

    Attributes
    ----------
    method : str
        Of the service.
    metadata : mapping of str to str
        What the call carries beside its message, names in lower case.
    request_id : str
        Taken from the caller, or made.
    started_ns : int
        When it came, by ``time.perf_counter_ns``.
    span : Traced or None
        Its span; None where none are made.
    principal, fleet : str or None
        Who asks, and about which fleet that is really served, once that is known.
    rows : int or None
        How many rows were answered.
    """

    method: str
    metadata: Mapping[str, str]
    request_id: str
    started_ns: int
    span: Traced | None
    principal: str | None = None
    fleet: str | None = None
    rows: int | None = None


class CallGate:
    """Lets callers in, and sees what becomes of their calls.

    Parameters
    ----------
    ring : KeyRing
        The API keys.
    under_way : UnderWay
        What is being answered.
    metrics : Metrics
        Where to count.
    access : AccessLog
        Where some calls get a line.
    tracer : Tracer, optional
        Who sends traces; none unless told.
    """

    def __init__(
        self,
        ring: KeyRing,
        under_way: UnderWay,
        metrics: Metrics,
        access: AccessLog,
        tracer: Tracer | None = None,
    ) -> None:
        self._ring = ring
        self._under_way = under_way
        self._ids = Ids()
        self._access = access
        self._tracer = tracer
        self._seconds = metrics.metric(
            "shoal_call_seconds", Kind.HISTOGRAM, "Time that gRPC calls took, in seconds", ("fleet", "method", "code"),
            SECONDS,
        )  # fmt: skip

    def enter(self, method: str, metadata: Mapping[str, str]) -> Visit:
        """Begin with a call, whoever it is from; :meth:`leave` ends it, whatever becomes of it."""
        span = None
        if self._tracer is not None:
            span = self._tracer.span(f"{SERVICE}/{method}", traceparent=metadata.get("traceparent"))
        return Visit(
            method=method,
            metadata=metadata,
            request_id=self._ids.of(metadata.get(REQUEST_ID, "").encode()).decode(),
            started_ns=time.perf_counter_ns(),
            span=span,
        )

    def admit(self, visit: Visit) -> None:
        """Let a caller in who may ask this, as the permission table has it.

        Raises
        ------
        Unauthenticated
            The key is missing or not taken.
        Forbidden
            Its role does not allow this.
        """
        permission = CALLS[visit.method]
        if permission is None:
            return
        given = visit.metadata.get
        principal = self._ring.caller(given("authorization", "").encode(), given("x-api-key", "").encode())
        visit.principal = principal.name
        principal.require(permission)

    def context(self, visit: Visit, remaining_s: float | None) -> RequestContext:
        """What is known of a request that comes now: the call's only one, or one of a stream.

        Parameters
        ----------
        visit : Visit
            The call.
        remaining_s : float or None
            How long gRPC lets it take, in seconds; None where its caller did not say.

        Raises
        ------
        InvalidInput
            Its metadata ask for a time that is none.
        """
        return RequestContext(
            request_id=visit.request_id,
            principal=visit.principal or "",
            deadline_s=self._under_way.deadline_s(visit.metadata.get(_DEADLINE), remaining_s),
            one_by_one=True,
            id_replaced=(visit.metadata.get(REQUEST_ID) or visit.request_id) != visit.request_id,
        )

    def turn(self, visit: Visit, context: RequestContext) -> Turn:
        """A context in which a request is answered until its deadline; raises as :meth:`UnderWay.turn` does."""
        assert context.deadline_s is not None
        return self._under_way.turn(context.deadline_s, always=CALLS[visit.method] is None)

    def pause(self, most_s: float) -> Turn:
        """A context in which a stream waits for its next request, raising as :meth:`UnderWay.pause` does."""
        return self._under_way.pause(most_s)

    def hold(self, size_bytes: int) -> Held:
        """A context in which a message is under way, raising as :meth:`UnderWay.hold` does."""
        return self._under_way.hold(size_bytes)

    def leave(self, visit: Visit, code: str, status: int, peer: Callable[[], str]) -> None:
        """Count a call that has ended, log it or not, and end its span.

        Parameters
        ----------
        visit : Visit
            The call.
        code : str
            Name of its status.
        status : int
            The one that it would have over HTTP, so that one question finds what failed in the logs of both doors.
        peer : callable
            Tells who called, as gRPC does.
        """
        took_s = (time.perf_counter_ns() - visit.started_ns) / 1e9
        self._seconds.observe((visit.fleet or "", visit.method, code), took_s)
        if self._access.wants(status):
            self._access.tell(
                request_id=visit.request_id,
                method="POST",
                path=f"/{SERVICE}/{visit.method}",
                status=status,
                took_s=took_s,
                principal=visit.principal,
                fleet=visit.fleet,
                rows=visit.rows,
                client=_host(peer()),
                code=code,
            )
        if visit.span is not None:
            _end(visit.span, visit, code, status)


def _end(span: Traced, visit: Visit, code: str, status: int) -> None:
    with span:
        span.tell(
            {
                "rpc.system.name": "grpc",
                "rpc.method": f"{SERVICE}/{visit.method}",
                "rpc.response.status_code": code,
                "shoal.request_id": visit.request_id,
                "shoal.fleet": visit.fleet or "",
                "shoal.rows": visit.rows or 0,
            }
        )
        if status >= ERRORS_FROM:
            span.fail()


def _host(peer: str) -> str:
    """The address in ``ipv4:127.0.0.1:4242`` or ``ipv6:%5B::1%5D:4242``."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")
