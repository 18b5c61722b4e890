"""The one table: which permission each route and each call asks for. What is not in it does not exist for anybody."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from shoal.errors import NotFound
from shoal.security.permissions import Permission
from shoal.server.errors import WrongMethod

PREDICT, READ, OPERATE, ADMIN = Permission.PREDICT, Permission.READ, Permission.OPERATE, Permission.ADMIN
PUBLIC: Final = None
"""Open to all: whether the server lives and is ready."""

_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"
_STORE = "/v2/repository/models/{model}"

TABLE: Sequence[tuple[str, str, Permission | None]] = (
    # Health
    ("GET", "/health", PUBLIC),
    ("GET", "/health/live", PUBLIC),
    ("GET", "/health/ready", PUBLIC),
    # The open inference protocol
    ("GET", "/v2", PREDICT),
    ("GET", "/v2/", PREDICT),
    ("GET", "/v2/health/live", PUBLIC),
    ("GET", "/v2/health/ready", PUBLIC),
    ("GET", _MODEL, PREDICT),
    ("GET", f"{_MODEL}/ready", PREDICT),
    ("GET", f"{_MODEL}/stats", READ),
    ("POST", f"{_MODEL}/infer", PREDICT),
    ("POST", f"{_MODEL}/infer/async", PREDICT),
    ("GET", _VERSION, PREDICT),
    ("GET", f"{_VERSION}/ready", PREDICT),
    ("GET", f"{_VERSION}/stats", READ),
    ("POST", f"{_VERSION}/infer", PREDICT),
    ("POST", f"{_VERSION}/infer/async", PREDICT),
    ("GET", "/v2/models/stats", READ),
    ("POST", "/v2/repository/index", READ),
    ("POST", f"{_STORE}/load", OPERATE),
    ("POST", f"{_STORE}/unload", OPERATE),
    # MLflow's clients
    ("GET", "/ping", PUBLIC),
    ("POST", "/invocations", PREDICT),
    # Discovery
    ("GET", "/api/v1/services", PREDICT),
    # Callers see their own; everybody's with READ, and with OPERATE they may replay them
    ("GET", "/api/v1/predictions", PREDICT),
    ("GET", "/api/v1/predictions/{id}", PREDICT),
    ("POST", "/api/v1/predictions/{id}/replay", PREDICT),
    ("POST", "/api/v1/predictions/replay", OPERATE),
    ("GET", "/api/v1/requests/{id}/predictions", PREDICT),
    # What was promised to be durable is gone then
    ("POST", "/api/v1/predictions/purge", ADMIN),
    # Management
    ("GET", "/api/v1/docs", READ),
    ("GET", "/api/v1/openapi.json", READ),
    ("GET", "/api/v1/fleets", READ),
    ("GET", "/api/v1/fleets/{name}", READ),
    ("PUT", "/api/v1/fleets/{name}", OPERATE),
    ("GET", "/api/v1/fleets/{name}/snapshots", READ),
    ("GET", "/api/v1/fleets/{name}/snapshots/{version}", READ),
    ("GET", "/api/v1/fleets/{name}/models", READ),
    ("GET", "/api/v1/fleets/{name}/models/history", READ),
    ("GET", "/api/v1/fleets/{name}/history", READ),
    ("GET", "/api/v1/fleets/{name}/aliases", READ),
    ("GET", "/api/v1/fleets/{name}/diff", READ),
    ("POST", "/api/v1/fleets/{name}/promote", OPERATE),
    ("POST", "/api/v1/fleets/{name}/rollback", OPERATE),
    ("GET", "/api/v1/serving", READ),
    ("GET", "/api/v1/serving/{name}", READ),
    ("PUT", "/api/v1/serving/{name}", OPERATE),
    # Definitions have addresses, queries and paths in them; nobody can change them from outside
    ("GET", "/api/v1/sources", OPERATE),
    ("GET", "/api/v1/sources/{name}", OPERATE),
    ("GET", "/api/v1/sinks", OPERATE),
    ("GET", "/api/v1/sinks/{name}", OPERATE),
    ("GET", "/api/v1/stores", OPERATE),
    ("GET", "/api/v1/runs", READ),
    ("GET", "/api/v1/runs/{run}", READ),
    ("GET", "/api/v1/keys", ADMIN),
    ("POST", "/api/v1/keys", ADMIN),
    ("POST", "/api/v1/keys/{id}/revoke", ADMIN),
    ("POST", "/api/v1/keys/{id}/rotate", ADMIN),
    ("GET", "/api/v1/audit", ADMIN),
    ("GET", "/api/v1/audit/check", ADMIN),
    # Telemetry
    ("GET", "/metrics", READ),
)
"""Method, path and permission of every route; ``{name}`` is one part of a path, of any text."""

OPEN_PATHS: Final = frozenset(path for _, path, permission in TABLE if permission is PUBLIC)
"""The paths that are open to all; none of them has a part of any text."""

CALLS: Mapping[str, Permission | None] = {
    "ServerLive": PUBLIC,
    "ServerReady": PUBLIC,
    "ServerMetadata": PREDICT,
    "ModelReady": PREDICT,
    "ModelMetadata": PREDICT,
    "ModelInfer": PREDICT,
    "ModelStreamInfer": PREDICT,
    "ModelStatistics": READ,
    "RepositoryIndex": READ,
    "RepositoryModelLoad": OPERATE,
    "RepositoryModelUnload": OPERATE,
}
"""Permission of every method of the service over gRPC, the same as that of its route over REST."""

READINESS: Final = frozenset({"/health/ready", "/v2/health/ready", "/ping", f"{_MODEL}/ready", f"{_VERSION}/ready"})
"""Routes that say whether the server wants traffic, all in all or for a model."""

_REMEMBERED = 4096
_Shape: TypeAlias = tuple[str | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A route as the table has it.

    Attributes
    ----------
    method : str
        In capitals.
    template : str
        Its path; the label of its metrics, for callers cannot make up new ones.
    permission : Permission or None
        What the caller needs; None where anybody may ask.
    tells_readiness : bool
        Whether it says if the server wants traffic.
    """

    method: str
    template: str
    permission: Permission | None
    tells_readiness: bool


class RouteTable:
    """Finds the rule of a request.

    Parameters
    ----------
    rows : iterable of (method, template, permission)
        As in :data:`TABLE`.
    """

    def __init__(self, rows: Iterable[tuple[str, str, Permission | None]] = TABLE) -> None:
        self._rules: dict[_Shape, dict[str, Rule]] = {}
        for method, template, permission in rows:
            shape = tuple(None if part.startswith("{") else part for part in template.split("/")[1:])
            self._rules.setdefault(shape, {})[method] = Rule(
                method=method, template=template, permission=permission, tells_readiness=template in READINESS
            )
        # Where a name and a word fit, the word is meant: /v2/models/stats is no model.
        self._shapes = sorted(self._rules, key=lambda shape: shape.count(None))
        self._found: dict[tuple[str, bytes], Rule] = {}

    def rules(self) -> Iterator[Rule]:
        """Every rule."""
        return (rule for methods in self._rules.values() for rule in methods.values())

    def rule(self, method: str, path: bytes) -> Rule:
        """The rule of a request.

        Parameters
        ----------
        method : str
            As it came; ``HEAD`` counts as ``GET``.
        path : bytes
            The path as it was sent, still percent-encoded, so that no name can pretend to be several parts.

        Raises
        ------
        NotFound
            There is no such route.
        WrongMethod
            There is, but with other methods.
        """
        found = self._found.get((method, path))
        if found is None:
            found = self._match("GET" if method == "HEAD" else method, path.decode("latin-1"))
            if len(self._found) >= _REMEMBERED:  # callers choose the paths: never remember more than so many
                self._found.clear()
            self._found[method, path] = found
        return found

    def _match(self, method: str, path: str) -> Rule:
        parts = path.split("/")[1:]
        matching = [self._rules[shape] for shape in self._shapes if _fits(shape, parts)]
        for methods in matching:
            if method in methods:
                return methods[method]
        if not matching:
            raise self._missing(parts)
        raise WrongMethod(method, tuple(sorted({one for methods in matching for one in methods})))

    def _missing(self, parts: Sequence[str]) -> NotFound:
        """The refusal of a path that leads nowhere; most often a slash stands behind one that does."""
        if len(parts) > 1 and not parts[-1] and any(_fits(shape, parts[:-1]) for shape in self._shapes):
            return NotFound("there is no such route; leave out the slash at its end")
        return NotFound("there is no such route; GET /v2 and GET /api/v1/docs say what there is")


def _fits(shape: _Shape, parts: Sequence[str]) -> bool:
    return len(shape) == len(parts) and all(
        bool(part) if wanted is None else wanted == part for wanted, part in zip(shape, parts, strict=True)
    )
