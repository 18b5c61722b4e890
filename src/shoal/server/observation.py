"""What is seen of every request: its metrics, and its line in the access log."""

import random
import time

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.server.outgoing import OUTGOING, Outgoing
from shoal.server.permissions import Rule
from shoal.telemetry.logs import LineWriter
from shoal.telemetry.metrics import SECONDS, Kind, Metrics

_ABORTED = 499
ERRORS_FROM = 500
_STATUS = {status: str(status) for status in range(100, 600)}


class AccessLine(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What the access log says of a request beside the time; a struct, for one is made and encoded per request."""

    level: str
    request_id: str
    method: str
    path: str
    status: int
    code: str = ""
    seconds: float
    principal: str | None
    fleet: str | None
    rows: int | None
    client: str | None
    logger: str


class AccessLog:
    """Lines for requests of both doors: for those that fail on our side always, for a share of the others.

    Parameters
    ----------
    log : LineWriter
        Where to log.
    share : float
        Which share to log, from 0 to 1.
    """

    def __init__(self, log: LineWriter, share: float) -> None:
        self._log = log
        self._share = share

    def wants(self, status: int) -> bool:
        """Whether a request that ended with this status gets a line."""
        return status >= ERRORS_FROM or (self._share > 0 and random.random() < self._share)  # noqa: S311

    def tell(
        self,
        *,
        request_id: str,
        method: str,
        path: str,
        status: int,
        took_s: float,
        principal: str | None,
        fleet: str | None,
        rows: int | None,
        client: str | None,
        code: str = "",
    ) -> None:
        """Log a request."""
        self._log.offer(
            AccessLine(
                level="error" if status >= ERRORS_FROM else "info",
                logger="shoal.access",
                request_id=request_id,
                method=method,
                path=path,
                status=status,
                code=code,
                seconds=round(took_s, 6),
                principal=principal,
                fleet=fleet,
                rows=rows,
                client=client,
            )
        )


class Observation:
    """Counts requests by fleet, route and status, and logs some of them.

    The labels come from closed sets: the route from the permission table, the fleet from what is served. A request
    that fails on our side is always logged, of the others a share.

    Parameters
    ----------
    app : ASGI application
        What answers.
    metrics : Metrics
        Where to count.
    log : LineWriter
        Where to log.
    share : float
        Which share of the requests to log, from 0 to 1.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, log: LineWriter, *, share: float) -> None:
        self._app = app
        self._access = AccessLog(log, share)
        self._seconds = metrics.metric(
            "shoal_request_seconds",
            Kind.HISTOGRAM,
            "Time that requests took, in seconds",
            ("fleet", "route", "status"),
            SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        outgoing: Outgoing = scope[OUTGOING]
        start_s = time.perf_counter()
        try:
            await self._app(scope, receive, send)
        finally:
            took_s = time.perf_counter() - start_s
            status = outgoing.status or _ABORTED
            rule: Rule | None = scope.get("shoal.rule")
            route = rule.template if rule is not None else "(none)"
            self._seconds.observe((scope.get("shoal.fleet", ""), route, _STATUS[status]), took_s)
            if self._access.wants(status):
                self._tell(scope, status, took_s)

    def _tell(self, scope: Scope, status: int, took_s: float) -> None:
        principal = scope.get("shoal.principal")
        self._access.tell(
            request_id=scope.get("shoal.request_id", ""),
            method=scope["method"],
            path=scope["path"],
            status=status,
            took_s=took_s,
            principal=principal.name if principal else None,
            fleet=scope.get("shoal.fleet"),
            rows=scope.get("shoal.rows"),
            client=scope["client"][0] if scope.get("client") else None,
        )
