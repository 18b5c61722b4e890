"""What is seen of every request: its metrics, and its line in the access log."""

import random
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal.server.permissions import Rule
from shoal.telemetry.logs import Fields, LineWriter
from shoal.telemetry.metrics import SECONDS, Kind, Metrics

_ABORTED = 499
_ERRORS_FROM = 500
_STATUS = {status: str(status) for status in range(100, 600)}

Offer = Callable[[Fields], None]


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
        self._log = log
        self._share = share
        self._seconds = metrics.metric(
            "shoal_request_seconds",
            Kind.HISTOGRAM,
            "Time that requests took, in seconds",
            ("fleet", "route", "status"),
            SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        status = _ABORTED

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        start_s = time.perf_counter()
        try:
            await self._app(scope, receive, watched)
        finally:
            took_s = time.perf_counter() - start_s
            rule: Rule | None = scope.get("shoal.rule")
            route = rule.template if rule is not None else "(none)"
            self._seconds.observe((scope.get("shoal.fleet", ""), route, _STATUS[status]), took_s)
            if status >= _ERRORS_FROM or (self._share and random.random() < self._share):  # noqa: S311
                self._log.offer(_line(scope, status, took_s))


def _line(scope: Scope, status: int, took_s: float) -> Fields:
    principal = scope.get("shoal.principal")
    return {
        "level": "error" if status >= _ERRORS_FROM else "info",
        "logger": "shoal.access",
        "request_id": scope.get("shoal.request_id", ""),
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "seconds": round(took_s, 6),
        "principal": principal.name if principal else None,
        "fleet": scope.get("shoal.fleet"),
        "rows": scope.get("shoal.rows"),
        "client": scope["client"][0] if scope.get("client") else None,
    }
