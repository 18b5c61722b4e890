"""What stands before gRPC calls: the same keys, ids and metrics as before REST."""

import itertools
import re
import secrets
import time
from collections.abc import Mapping

from shoal.security.permissions import Permission
from shoal.server.authentication import KeyRing
from shoal.serving.messages import RequestContext
from shoal.telemetry.metrics import SECONDS, Kind, Metrics

_SAFE = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class CallGate:
    """Lets callers in and counts their calls.

    Parameters
    ----------
    ring : KeyRing
        The API keys.
    metrics : Metrics
        Where to count.
    """

    def __init__(self, ring: KeyRing, metrics: Metrics) -> None:
        self._ring = ring
        self._prefix = secrets.token_hex(6)
        self._count = itertools.count(1)
        self._seconds = metrics.metric(
            "shoal_call_seconds", Kind.HISTOGRAM, "Time that gRPC calls took, in seconds", ("fleet", "method", "code"),
            SECONDS,
        )  # fmt: skip

    def admit(self, metadata: Mapping[str, str], permission: Permission | None) -> RequestContext:
        """Let a caller in.

        Raises
        ------
        Unauthenticated
            The key is missing or not taken.
        Forbidden
            Its role does not allow this.
        """
        given = metadata.get("x-request-id", "")
        request_id = given if _SAFE.fullmatch(given) else f"{self._prefix}-{next(self._count):x}"
        if permission is None:
            return RequestContext(request_id=request_id, principal="")
        principal = self._ring.caller(
            metadata.get("authorization", "").encode(), metadata.get("x-api-key", "").encode()
        )
        principal.require(permission)
        return RequestContext(request_id=request_id, principal=principal.name)

    def observe(self, method: str, code: str, fleet: str | None, started_ns: int) -> None:
        """Count a call that has ended."""
        self._seconds.observe((fleet or "", method, code), (time.perf_counter_ns() - started_ns) / 1e9)
