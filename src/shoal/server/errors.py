"""Which status an error has over HTTP, and the one body that tells it: ``{"error": "text"}``."""

import copy
import logging
import math
from collections.abc import Sequence

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal import errors
from shoal.server.outgoing import OUTGOING, Outgoing

_STATUSES: Sequence[tuple[type[errors.ShoalError], int]] = (
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.TooLarge, 413),
    (errors.InvalidInput, 400),
    (errors.DeadlineExceeded, 504),
    (errors.Unavailable, 503),
    (errors.StorageError, 503),
)
"""Tried from the top; what is not here is ours to mend: 500."""

_INTERNAL = 500

_log = logging.getLogger("shoal.server")


class WrongMethod(errors.ShoalError):
    """There is such a route, but not with this method.

    Attributes
    ----------
    allowed : tuple of str
        The methods that there are.
    """

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"this route does not take {method[:20]}; use {' or '.join(allowed)}")
        self.allowed = allowed


class WrongContent(errors.ShoalError):
    """A body of a kind that the route does not take."""


def status_of(error: BaseException) -> int:
    """The status of an error; 500 for one that is not ours."""
    if isinstance(error, WrongMethod):
        return 405
    if isinstance(error, WrongContent):
        return 415
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), _INTERNAL)


def headers_of(error: BaseException) -> list[tuple[bytes, bytes]]:
    """What the status wants said in a header: when to come back, how to prove who one is, what to ask instead."""
    if isinstance(error, errors.Unavailable) and error.retry_after_s is not None:
        return [(b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s)))]
    if isinstance(error, errors.Unauthenticated):
        return [(b"www-authenticate", b"Bearer")]
    if isinstance(error, WrongMethod):
        return [(b"allow", ", ".join(error.allowed).encode())]
    return []


async def answer(
    send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = (), kind: bytes = b"application/json"
) -> None:
    """Send a whole answer."""
    described = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": described})
    await send({"type": "http.response.body", "body": body})


async def answer_error(send: Send, error: errors.ShoalError) -> None:
    """Tell the caller what went wrong."""
    await answer(send, status_of(error), error_body(str(error)), headers_of(error))


def error_body(text: str) -> bytes:
    """The body of every answer that is not a success."""
    return msgspec.json.encode({"error": text})


class ErrorAnswers:
    """Answers errors that come out of an application; what is not ours is logged, and only its request id told.

    Parameters
    ----------
    app : ASGI application
        What may raise.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        outgoing: Outgoing = scope[OUTGOING]
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if outgoing.finished:  # frameworks answer, and raise all the same
                return
            if outgoing.status:
                raise
            await answer_error(send, told(error, scope.get("shoal.request_id", "")))


def told(error: Exception, request_id: str) -> errors.ShoalError:
    """The error as the caller may see it; what is ours to mend is logged.

    Errors of storage, and the details of others, name files, addresses and statements, which are for whoever runs the
    server.
    """
    if isinstance(error, errors.StorageError):
        _log.warning("request %s failed: %s", request_id, error)
        return errors.Unavailable(
            "what this server keeps in its database or its files cannot be reached or changed now; try again, and if "
            f"that does not help, the server's log says why: {request_id}"
        )
    if isinstance(error, errors.ShoalError) and status_of(error) != _INTERNAL:
        return _without_detail(error, request_id) if error.detail else error
    _log.error("request %s failed", request_id, exc_info=error)
    return errors.ShoalError(f"something went wrong here, not with you; the server's log says what: {request_id}")


def _without_detail(error: errors.ShoalError, request_id: str) -> errors.ShoalError:
    """An error of the same kind that says where its detail is, and not what."""
    _log.warning("request %s failed: %s", request_id, error)
    shown = copy.copy(error)
    shown.message, shown.detail = f"{error.message}; the server's log says more: {request_id}", ""
    return shown
