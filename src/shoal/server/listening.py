"""The addresses that a server listens on: bound once, for all of its processes."""

import socket
from typing import Final, TypeVar

import msgspec

from shoal.errors import StorageError

_BACKLOG: Final = 2048

_Address = TypeVar("_Address", str, str | None)


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server listens.

    Attributes
    ----------
    url : str
        REST.
    grpc : str or None
        ``host:port`` of gRPC; None without.
    admin_url : str or None
        Management and metrics, when they have a port of their own.
    fleets : tuple of str
        What is served, ``NAME:VERSION``; empty until it is ready.
    """

    url: str
    grpc: str | None = None
    admin_url: str | None = None
    fleets: tuple[str, ...] = ()


def listen(host: str, port: int, option: str) -> socket.socket:
    """A socket that is bound and listens.

    Parameters
    ----------
    host, port : str, int
        Where; port 0 takes a free one.
    option : str
        What errors call the port.

    Raises
    ------
    StorageError
        The address cannot be bound.
    """
    listener = _socket(host)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _bind(listener, host, port, option)
    try:
        listener.listen(_BACKLOG)
    except OSError as error:  # who binds to a port at the same moment is found out here
        listener.close()
        raise _taken(host, port, option, error) from error
    return listener


def reserve(host: str, port: int) -> socket.socket:
    """Hold a port without listening on it, so that it stays ours while workers come and go.

    Whoever shares ports may bind to one that is shared already, another server as well as our workers. So it is taken
    for us alone first, which fails when anybody else has it, and is shared from then on.

    Raises
    ------
    StorageError
        The address cannot be bound.
    """
    with listen(host, port, "--grpc-port") as alone:
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held = _socket(host)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(held, host, alone.getsockname()[1], "--grpc-port")
    return held


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)


def _bind(unbound: socket.socket, host: str, port: int, option: str) -> None:
    try:
        unbound.bind((host.strip("[]"), port))
    except (OSError, OverflowError) as error:
        unbound.close()
        raise _taken(host, port, option, error) from error


def _taken(host: str, port: int, option: str, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or error
    return StorageError(f"cannot listen on {host}:{port}: {reason}; choose another {option} or --host")


def where(bound: socket.socket) -> str:
    """``host:port`` of a socket."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(address: _Address) -> _Address:
    """An address that others can use: a server that listens everywhere is reached by its machine's name."""
    if address is None:
        return address
    return address.replace("0.0.0.0", socket.gethostname()).replace("[::]", socket.gethostname())  # noqa: S104
