"""What a client says first on a connection, looked at before anybody takes it."""

import asyncio
import socket
from typing import Final

_HANDSHAKE: Final = b"\x16"


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
