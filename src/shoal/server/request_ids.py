"""Request ids: every request has one, and every answer says it."""

import itertools
import re
import secrets

from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.server.outgoing import Outgoing

_HEADER = b"x-request-id"
_SAFE = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


class RequestIds:
    """Takes the caller's ``X-Request-Id``, or makes one, and returns it.

    A made id is a random prefix of this process and a count: unique, and far cheaper than random bits per request. It
    leaves ``shoal.request_id``, ``shoal.headers`` (the headers as a mapping, made once for all) and the
    :class:`~shoal.server.outgoing.Outgoing` in the scope.

    Parameters
    ----------
    app : ASGI application
        What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._prefix = secrets.token_hex(6).encode()
        self._count = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        headers = scope["shoal.headers"] = dict(scope["headers"])
        given = headers.get(_HEADER)
        if given is None or not _SAFE.fullmatch(given):
            given = b"%s-%x" % (self._prefix, next(self._count))
        scope["shoal.request_id"] = given.decode()
        outgoing = Outgoing(scope, send)
        outgoing.headers.append((_HEADER, given))
        await self._app(scope, receive, outgoing.send)
