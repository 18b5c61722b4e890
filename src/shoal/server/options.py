"""How a server runs: addresses, processes, limits. It travels to the worker processes as JSON."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

import msgspec

from shoal.errors import InvalidInput
from shoal.serving.deferred_options import DeferredOptions

_ADDRESSES: Final = {"--url": "https://models.example.org", "--otlp-endpoint": "http://localhost:4318/v1/traces"}


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker takes on, and how long it waits.

    Attributes
    ----------
    body_bytes : int
        Largest body of a request.
    rows : int
        Most rows of a request.
    bodies_bytes : int
        Most bytes of bodies under way at once.
    requests : int
        Most requests under way at once.
    connections : int
        Most open connections.
    header_bytes : int
        Largest head of a request.
    handshake_s : float
        How long a connection may take to shake hands where the server speaks TLS, and to say goodbye, in seconds.
    header_s : float
        How long a connection may take to send the head of a request, in seconds.
    body_s : float
        How long it may take to send the body, in seconds.
    idle_s : float
        How long a connection may stay open between two requests, in seconds.
    request_s : float
        How long a request may take, in seconds; the caller may ask for less.
    """

    body_bytes: int = 64 * 2**20
    rows: int = 200_000
    bodies_bytes: int = 512 * 2**20
    requests: int = 4096
    connections: int = 10_000
    header_bytes: int = 64 * 2**10
    handshake_s: float = 10.0
    header_s: float = 10.0
    body_s: float = 60.0
    idle_s: float = 75.0
    request_s: float = 60.0


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a server's certificate is.

    Attributes
    ----------
    certificate : str
        Path of the certificate in PEM, and of those between it and its authority.
    key : str
        Path of its private key in PEM, without a passphrase.
    client_ca : str or None
        Path of the authorities, in PEM, one of which has to have signed the certificate that each client then has to
        show; None asks clients for none.
    """

    certificate: str
    key: str
    client_ca: str | None = None


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a server runs.

    Attributes
    ----------
    fleets : tuple of str
        What to serve, ``NAME``, ``NAME@ALIAS`` or ``NAME:VERSION``; empty for what the registry says.
    workers : int
        Processes that serve.
    host : str
        Address to listen on.
    port : int
        Port of REST; 0 takes a free one.
    grpc_port : int or None
        Port of gRPC; 0 takes a free one, None is without.
    admin_port : int or None
        Port of management and metrics; None leaves them on ``port``.
    category : str
        Where no fleets are named: only those of this category; empty for all.
    tls : TlsFiles or None
        The certificate with which REST, gRPC and management are secured; None: they are not.
    url : str or None
        Where others reach REST, when that is not where the server listens; discovery tells it.
    drain_s : float
        How long requests under way may take to finish when the server ends, in seconds.
    batching : bool
        Whether requests that wait at the same moment share a kernel call.
    access_log : float
        Share of the requests that are logged, from 0 to 1; those that fail on our side always are.
    otlp_endpoint : str or None
        Where to send traces; None makes none.
    limits : Limits
        What a worker takes on.
    deferred : DeferredOptions
        How predictions that nobody waits for are handled.

    Raises
    ------
    InvalidInput
        Fleets are named and a category as well, or an address is none.
    """

    fleets: tuple[str, ...] = ()
    workers: int = 1
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = 8081
    admin_port: int | None = None
    category: str = ""
    tls: TlsFiles | None = None
    url: str | None = None
    drain_s: float = 30.0
    batching: bool = True
    access_log: float = 0.0
    otlp_endpoint: str | None = None
    limits: Limits = Limits()
    deferred: DeferredOptions = DeferredOptions()

    def __post_init__(self) -> None:
        """Refuse what would be ignored, or found out by others only."""
        if self.category and self.fleets:
            raise InvalidInput(
                f"--category {self.category!r} chooses among all fleets; leave it out, or do not name fleets"
            )
        for option, address in (("--url", self.url), ("--otlp-endpoint", self.otlp_endpoint)):
            if address is not None:
                _require_address(option, address)


def _require_address(option: str, address: str) -> None:
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.fragment
    except ValueError:  # such as a port that is no number
        sound = False
    if not sound or not address.isprintable() or " " in address:
        raise InvalidInput(f"{option} {address!r} is no address; write one such as {_ADDRESSES[option]}")


def require_keys_beyond_loopback(host: str, *, active_keys: int) -> None:
    """Refuse to serve the network without API keys.

    Raises
    ------
    InvalidInput
        The address is not a loopback one, and there is no active key.
    """
    if active_keys or is_loopback(host):
        return
    raise InvalidInput(
        f"without an API key only this machine is served, and {host} is reached from others; make one first: "
        "`shoal keys create NAME --role predictor`, or leave --host out"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name other than ``localhost`` may mean anything."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
