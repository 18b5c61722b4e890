"""The OpenAPI description of the whole stack: what FastAPI knows of the management API, and every other route.

The permission table says which routes there are, so that none is left out and none is made up.
"""

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Final, cast

from shoal.security.permissions import Permission
from shoal.server.management.operations import JSON, TEXT, Node, contents, reference
from shoal.server.management.protocol import OPERATIONS, schemas
from shoal.server.permissions import TABLE

_SECURITY: Final[Sequence[Node]] = ({"bearer": []}, {"key": []})
_SCHEMES: Final[Node] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_ALWAYS: Final = (400, 413, 503, 504)
_TO_STRANGERS: Final = (401, 403)
_CHANGING: Final = ("POST", "PUT")
_REPLACED: Final = "422"
_UNUSED: Final = ("HTTPValidationError", "ValidationError")
_TOLD: Final = {401: "WWW-Authenticate", 503: "Retry-After"}
_PERHAPS_FOR_GOOD: Final = 503  # such as for a fleet that somebody unloaded; then nobody is told when to come back


def describe(known: Node) -> Node:
    """The whole description.

    Parameters
    ----------
    known : dict
        As FastAPI has it.

    Returns
    -------
    dict
        With every route of :data:`shoal.server.permissions.TABLE`.
    """
    paths = cast("dict[str, dict[str, Node]]", known["paths"])
    components = cast("dict[str, Node]", known.get("components", {}))
    own = {name: schema for name, schema in components.get("schemas", {}).items() if name not in _UNUSED}
    whole: dict[str, Node] = {}
    for method, path, permission in TABLE:
        word = method.lower()
        operation = paths.get(path, {}).get(word) or _other(method, path)
        whole.setdefault(path, {})[word] = _completed(operation, method, path, permission)
    return {
        **known,
        "paths": whole,
        "components": {"schemas": {**own, **schemas()}, "securitySchemes": _SCHEMES, "responses": dict(_refusals())},
    }


def _other(method: str, path: str) -> Node:
    operation = OPERATIONS.get((method, path))
    return operation.described() if operation is not None else {"responses": {"default": {"description": ""}}}


def _completed(operation: Node, method: str, path: str, permission: Permission | None) -> Node:
    """With what is said of every route alike: how it is named, who may, what its path has, how it refuses."""
    parameters = cast("list[Node]", operation.get("parameters", []))
    told = {cast("str", one["name"]) for one in parameters if one["in"] == "path"}
    missing = [name for name in _names(path) if name not in told]
    responses = {status: one for status, one in cast("Node", operation["responses"]).items() if status != _REPLACED}
    responses |= {
        str(status): {"$ref": f"#/components/responses/{status}"}
        for status in _refused(method, path, permission, takes_body="requestBody" in operation)
    }
    completed: Node = {
        **operation,
        "operationId": operation_id(method, path),
        "security": [] if permission is None else list(_SECURITY),
        "responses": responses,
    }
    if permission is not None:
        completed["x-permission"] = permission.value
    if parameters or missing:
        completed["parameters"] = [*[_in_path(name) for name in missing], *parameters]
    return completed


def operation_id(method: str, path: str) -> str:
    """A name for an operation that no other has, and that stays."""
    words = [part.strip("{}").replace(".", "_") or "root" for part in path.split("/")[1:]]
    return "_".join([method.lower(), *words])


def _names(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _in_path(name: str) -> Node:
    return {"name": name, "in": "path", "required": True, "schema": {**TEXT, "minLength": 1}}


def _refused(method: str, path: str, permission: Permission | None, *, takes_body: bool) -> list[int]:
    own = OPERATIONS.get((method, path))
    statuses = {*_ALWAYS, *(own.refuses if own is not None else ())}
    if permission is not None:
        statuses.update(_TO_STRANGERS)
    if takes_body:
        statuses.add(415)
    if _names(path):
        statuses.add(404)
    if own is None and method in _CHANGING:
        statuses.update((404, 409))
    return sorted(statuses)


def _refusals() -> Iterator[tuple[str, Node]]:
    """Every refusal, by its status; all have the same body."""
    for status in (400, 401, 403, 404, 409, 413, 415, 503, 504):
        node: Node = {"description": HTTPStatus(status).phrase, "content": contents({JSON: reference("Error")})}
        if status in _TOLD:
            node["headers"] = {_TOLD[status]: {"required": status != _PERHAPS_FOR_GOOD, "schema": TEXT}}
        yield str(status), node
