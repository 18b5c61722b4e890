"""The beginnings of secured connections: what a client says first, and handshakes that fail."""

import asyncio
import logging
import math
import socket
import ssl
from typing import Final

_HANDSHAKE: Final = b"\x16"
_TELL_S: Final = 60.0

_log = logging.getLogger("shoal.server")


class FailedHandshakes:
    """Counts handshakes that fail, and logs why, once a minute at most: whoever can connect can make them fail.

    Clients often hear no more than that the connection has ended, for instance when they show no certificate.
    """

    def __init__(self) -> None:
        self._count = 0
        self._why = ""
        self._told_s = -math.inf

    def add(self, error: OSError) -> None:
        """Count one, unless the client has just gone, as those that only look whether anybody is there."""
        if isinstance(error, ssl.SSLError):
            self._why = error.reason
        elif isinstance(error, TimeoutError):
            self._why = "a client that took too long"
        else:
            return
        self._count += 1

    def tell(self, now_s: float) -> None:
        """Log those that have not been told, if it is time to (``time.monotonic``)."""
        if self._count and now_s - self._told_s > _TELL_S:
            _log.warning("%d TLS handshakes have failed, the last one by %s", self._count, self._why)
            self._count, self._told_s = 0, now_s


async def begins_tls(client: socket.socket) -> bool:
    """Wait for a client's first byte, and tell whether it is what TLS begins with (RFC 8446, 5.1).

    Nothing is taken from the socket, so whoever goes on with it reads that byte too. Without this, a client that speaks
    plain HTTP to a secured port would learn no more than that the connection has ended.

    Parameters
    ----------
    client : socket
        Accepted, and not blocking; it is closed when an error, or whoever cancels, ends the waiting.

    Raises
    ------
    OSError
        The client has gone.
    """
    try:
        while (first := _peeked(client)) is None:
            await _readable(client)
    except BaseException:
        client.close()
        raise
    return first == _HANDSHAKE


def _peeked(client: socket.socket) -> bytes | None:
    """The first byte; None when none has come."""
    try:
        first = client.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return None
    if not first:
        raise ConnectionResetError("the client has gone without a word")
    return first


async def _readable(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    came: asyncio.Future[None] = loop.create_future()
    loop.add_reader(client, _tell, came)
    try:
        await came
    finally:
        loop.remove_reader(client)


def _tell(came: "asyncio.Future[None]") -> None:
    if not came.done():
        came.set_result(None)
