"""The one stack of pure ASGI middlewares that stands before every door.

From the outside in: request ids, observation (metrics, access log), answers to errors, limits, authentication,
readiness, and then the door that the path asks for. Each does one thing and costs a microsecond or so. Those that have
nothing to do afterwards are no coroutines: they hand on what the next one returns, and the answer does not come back
through them.
"""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.errors import NotFound
from shoal.server.authentication import Authentication, KeyRing
from shoal.server.errors import ErrorAnswers
from shoal.server.limits import Doorkeeper, Readiness, Traffic
from shoal.server.observation import Observation
from shoal.server.options import ServerOptions
from shoal.server.permissions import RouteTable
from shoal.server.request_ids import RequestIds
from shoal.server.tracing import Tracing
from shoal.server.under_way import UnderWay
from shoal.telemetry.logs import LineWriter
from shoal.telemetry.metrics import Metrics
from shoal.telemetry.traces import Tracer


class Doors:
    """Sends a request to the door of its route, else to the one that its path begins with.

    Parameters
    ----------
    doors : mapping of str to ASGI application
        By a path of the permission table, or by the first part of the path.
    elsewhere : str
        Where other routes are, for who asks for one of them.
    """

    def __init__(self, doors: Mapping[str, ASGIApp], elsewhere: str) -> None:
        self._doors = doors
        self._elsewhere = elsewhere
        self._found: dict[str, ASGIApp | None] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request."""
        template = scope["shoal.rule"].template
        door = self._found.get(template) or self._find(template)
        if door is None:
            raise NotFound(f"there is no such route on this port; {self._elsewhere}")
        return door(scope, receive, send)

    def _find(self, template: str) -> ASGIApp | None:
        door = self._doors.get(template) or self._doors.get(template.split("/", 2)[1])
        self._found[template] = door  # templates are those of the table: there are only so many
        return door


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """The middlewares and what is asked of them from outside.

    Attributes
    ----------
    app : ASGI application
        The outermost middleware.
    under_way : UnderWay
        What is being answered.
    """

    app: ASGIApp
    under_way: UnderWay


def build_stack(
    doors: Mapping[str, ASGIApp],
    *,
    ring: KeyRing,
    traffic: Traffic,
    metrics: Metrics,
    log: LineWriter,
    options: ServerOptions,
    tracer: Tracer | None = None,
    under_way: UnderWay | None = None,
    table: RouteTable | None = None,
    elsewhere: str = "GET /v2 says what there is",
) -> Stack:
    """Put the middlewares before the doors.

    Parameters
    ----------
    doors : mapping of str to ASGI application
        See :class:`Doors`.
    ring : KeyRing
        The API keys.
    traffic : Traffic
        Whether traffic is wanted.
    metrics, log : Metrics, LineWriter
        Where to count and to log.
    options : ServerOptions
        The limits among them.
    tracer : Tracer, optional
        Who sends traces; none unless told.
    under_way : UnderWay, optional
        Where doors beside these note what they are answering; one of the stack's own unless told.
    table : RouteTable, optional
        Permissions of the routes; the real ones unless told.
    elsewhere : str
        See :class:`Doors`.
    """
    under_way = UnderWay(options.limits) if under_way is None else under_way
    app: ASGIApp = Readiness(Doors(doors, elsewhere), traffic)
    app = Authentication(app, ring, table or RouteTable())
    app = Doorkeeper(app, options.limits, under_way)
    app = ErrorAnswers(app)
    if tracer is not None:
        app = Tracing(app, tracer)
    app = Observation(app, metrics, log, share=options.access_log)
    return Stack(app=RequestIds(app), under_way=under_way)
