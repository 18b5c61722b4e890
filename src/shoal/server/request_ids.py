"""Request ids: every request has one, and every answer says it."""

import itertools
import re
import secrets
from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.server.outgoing import Outgoing

_HEADER = b"x-request-id"
_SAFE = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


class Ids:
    """Takes an id that a caller gave, where it is fit for a log, or makes one.

    A made id is a random prefix of this process and a count: unique, and far cheaper than random bits per request.
    """

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6).encode()
        self._count = itertools.count(1)

    def of(self, given: bytes | None) -> bytes:
        """The id of a request whose caller gave this one, or none."""
        if given and _SAFE.fullmatch(given):
            return given
        return b"%s-%x" % (self._prefix, next(self._count))


class RequestIds:
    """Takes the caller's ``X-Request-Id``, or makes one, and returns it.

    It leaves in the scope ``shoal.request_id``, ``shoal.id_replaced`` (whether the caller gave another one),
    ``shoal.headers`` (the headers as a mapping, made once for all) and the :class:`~shoal.server.outgoing.Outgoing`.

    Parameters
    ----------
    app : ASGI application
        What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._ids = Ids()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request."""
        headers = scope["shoal.headers"] = dict(scope["headers"])
        asked = headers.get(_HEADER)
        given = self._ids.of(asked)
        scope["shoal.request_id"] = given.decode()
        scope["shoal.id_replaced"] = bool(asked) and given is not asked
        outgoing = Outgoing(scope, send)
        outgoing.headers.append((_HEADER, given))
        return self._app(scope, receive, outgoing.send)
