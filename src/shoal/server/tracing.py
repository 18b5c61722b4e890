"""A span per request, for servers that were told where to send them."""

from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.server.observation import ERRORS_FROM
from shoal.server.outgoing import OUTGOING, Outgoing
from shoal.server.permissions import Rule
from shoal.telemetry.traces import Tracer


class Tracing:
    """Makes a span of every request, named for its route, continuing the caller's ``traceparent``.

    Parameters
    ----------
    app : ASGI application
        What answers.
    tracer : Tracer
        Who sends the spans.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        outgoing: Outgoing = scope[OUTGOING]
        parent = scope["shoal.headers"].get(b"traceparent", b"").decode("latin-1")
        with self._tracer.span(scope["method"], traceparent=parent or None) as span:
            await self._app(scope, receive, send)
            status = outgoing.status
            rule: Rule | None = scope.get("shoal.rule")
            if rule is not None:
                span.rename(f"{rule.method} {rule.template}")
                span.tell({"http.route": rule.template})
            span.tell(
                {
                    "http.request.method": scope["method"],
                    "http.response.status_code": status,
                    "shoal.request_id": scope["shoal.request_id"],
                    "shoal.fleet": scope.get("shoal.fleet", ""),
                    "shoal.rows": scope.get("shoal.rows", 0),
                }
            )
            if status >= ERRORS_FROM:
                span.fail()
