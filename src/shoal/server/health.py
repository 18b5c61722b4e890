"""``/health``: whether the server lives and wants traffic, for load balancers."""

from collections.abc import Sequence
from typing import ClassVar

import msgspec
from starlette.types import Receive, Scope, Send

from shoal.server.errors import answer
from shoal.server.limits import Traffic

_encoder = msgspec.json.Encoder()


class Health:
    """Answers ``/health``, ``/health/live`` and ``/health/ready``.

    Parameters
    ----------
    traffic : Traffic
        Whether traffic is wanted.

    Attributes
    ----------
    ROUTES : sequence of (method, template)
        The lines of the permission table that it answers.
    """

    ROUTES: ClassVar[Sequence[tuple[str, str]]] = (
        ("GET", "/health"),
        ("GET", "/health/live"),
        ("GET", "/health/ready"),
    )

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Whether the server is ready was decided before: :class:`~shoal.server.limits.Readiness`."""
        body = {"live": True, "ready": self._traffic.open, "draining": self._traffic.draining}
        await answer(send, 200, _encoder.encode(body))
