"""What a supervisor and its workers say to each other: lines of JSON over a pair of sockets.

The pair also tells each that the other has died: then there is nothing more to read.
"""

import socket
from typing import TypeAlias

import msgspec

from shoal.registry import ServerRecord
from shoal.server.options import ServerOptions


class Job(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a process is to do; the first line it is told.

    Attributes
    ----------
    number : int
        Its place among the processes of the server, from 0.
    manages : bool
        Whether it is the one for management and metrics, which serves no fleet.
    options : ServerOptions
        How the server runs.
    home, database_url, actor : str
        The workspace's settings.
    listener : int
        File descriptor of the socket to accept from.
    pages : tuple of int
        File descriptors of the pages with the metrics of each process.
    statistics : tuple of int
        File descriptors of the pages with what each process was asked.
    handovers : tuple of int
        File descriptors of the pages with what each process knows of the registry.
    surveys : tuple of int
        File descriptors of the pages with what each process knows of servers.
    grpc_port : int or None
        Port of gRPC.
    at_once : bool
        Whether to accept before being ready, so that somebody can be asked for health; not when others serve.
    server : ServerRecord
        What discovery tells of the server.
    """

    number: int
    manages: bool
    options: ServerOptions
    home: str
    database_url: str
    actor: str
    listener: int
    pages: tuple[int, ...]
    statistics: tuple[int, ...]
    handovers: tuple[int, ...]
    surveys: tuple[int, ...]
    grpc_port: int | None
    at_once: bool
    server: ServerRecord


class Open(msgspec.Struct, frozen=True, tag=True):
    """Told to a worker when all are ready: it may say so to the world."""


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Told by a worker that can answer requests.

    Attributes
    ----------
    fleets : tuple of str
        What it serves, ``NAME:VERSION``.
    """

    fleets: tuple[str, ...] = ()


class Waiting(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Told by a worker that has started, but has nothing to answer with yet.

    Attributes
    ----------
    reason : str
        Why, in words for the user.
    """

    reason: str


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Told by a worker that cannot start.

    Attributes
    ----------
    error : str
        Why, in words for the user.
    """

    error: str


Message: TypeAlias = Job | Open | Ready | Waiting | Failed

_encoder = msgspec.json.Encoder()
_decoder: "msgspec.json.Decoder[Message]" = msgspec.json.Decoder(Message)
_CHUNK = 65536


class Channel:
    """One end of the pair.

    Parameters
    ----------
    connection : socket
        The end; it need not block.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.ended = False
        self._rest = b""

    def fileno(self) -> int:
        """Its file descriptor."""
        return self.connection.fileno()

    def send(self, message: Message) -> None:
        """Tell the other side; it may have died, which :meth:`receive` finds out."""
        try:
            self.connection.sendall(_encoder.encode(message) + b"\n")
        except OSError:
            self.ended = True

    def receive(self) -> list[Message]:
        """What has come; sets ``ended`` when the other side has died."""
        try:
            chunk = self.connection.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            chunk = b""
        self.ended = self.ended or not chunk
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [_decoder.decode(line) for line in lines]
