"""The gRPC server of one process."""

from typing import Final, Self

import grpc

from shoal.server.calls import CallGate
from shoal.server.certificates import Certificates, Loaded
from shoal.server.grpc.service import STREAM_IDLE_S, InferenceService
from shoal.server.limits import Traffic
from shoal.server.options import Limits
from shoal.serving.plane import DataPlane

_OPTIONS: Final = (
    # Workers share the port; the kernel spreads connections over them.
    ("grpc.so_reuseport", 1),
    # Connections that ping without pause, or do nothing for ever, do not stay.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_connection_idle_ms", int(STREAM_IDLE_S * 1000)),
)


class GrpcDoor:
    """A listening gRPC server; :meth:`start` makes one."""

    def __init__(self, server: grpc.aio.Server, port: int) -> None:
        self._server = server
        self.port = port

    @classmethod
    async def start(
        cls,
        plane: DataPlane,
        gate: CallGate,
        traffic: Traffic,
        *,
        address: str,
        port: int,
        body_bytes: int,
        handshake_s: float = Limits().handshake_s,
        certificates: Certificates | None = None,
    ) -> Self:
        """Listen.

        Parameters
        ----------
        plane : DataPlane
            What answers.
        gate : CallGate
            What stands before it.
        traffic : Traffic
            Whether traffic is wanted.
        address : str
            Address to listen on, e.g. ``127.0.0.1``.
        port : int
            0: any free one.
        body_bytes : int
            Bytes of one message; larger ones are refused before they are read.
        handshake_s : float
            How long a connection may take until both sides have agreed on how to talk, in seconds.
        certificates : Certificates, optional
            With which connections are secured; without, they are not.
        """
        limits = (
            ("grpc.max_receive_message_length", body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.server_handshake_timeout_ms", int(handshake_s * 1000)),
        )
        server = grpc.aio.server(options=(*_OPTIONS, *limits))
        server.add_generic_rpc_handlers((InferenceService(plane, gate, traffic).handler(),))
        host = f"[{address}]" if ":" in address else address
        if certificates is None:
            bound = server.add_insecure_port(f"{host}:{port}")
        else:
            bound = server.add_secure_port(f"{host}:{port}", _credentials(certificates))
        await server.start()
        return cls(server, bound)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and give those under way some seconds to end."""
        await self._server.stop(grace_s)


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Credentials that follow the certificate: gRPC asks before each handshake, in a thread of its own."""
    known = certificates.now

    def fetch() -> "grpc.ServerCertificateConfiguration | None":
        nonlocal known
        now = certificates.now
        if now is known:
            return None
        known = now
        return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(known),
        fetch,  # type: ignore[arg-type]  # None says that nothing has changed, which its stub does not know
        require_client_authentication=known.client_ca is not None,
    )


def _configuration(loaded: Loaded) -> "grpc.ServerCertificateConfiguration":
    return grpc.ssl_server_certificate_configuration([(loaded.key, loaded.certificate)], loaded.client_ca)
