"""How a route that FastAPI does not know is described: what it takes, what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Node: TypeAlias = dict[str, object]
"""A part of an OpenAPI description."""

JSON: Final = "application/json"

TEXT: Final[Node] = {"type": "string"}
WHOLE: Final[Node] = {"type": "integer"}
TRUTH: Final[Node] = {"type": "boolean"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """A method of a path.

    Attributes
    ----------
    tag : str
        The group it is shown in.
    says : str
        What it does, in a sentence.
    answers : mapping of int to (mapping of str to schema)
        Per status of a success: the schema of the answer by its content type.
    body : mapping of str to schema
        The schema of the body by its content type; empty where none is taken.
    needs_body : bool
        Whether the body may not be left out.
    query, headers : mapping of str to schema
        Parameters that may be left out, but for those of the query that are needed.
    needs : sequence of str
        Names of those.
    given : mapping of int to (mapping of str to str)
        Per status: headers of the answer, and what each of them says.
    refuses : sequence of int
        Statuses of refusals beside those that every route has.
    """

    tag: str
    says: str
    answers: Mapping[int, Mapping[str, Node]]
    body: Mapping[str, Node] | None = None
    needs_body: bool = True
    query: Mapping[str, Node] | None = None
    headers: Mapping[str, Node] | None = None
    needs: Sequence[str] = ()
    given: Mapping[int, Mapping[str, str]] | None = None
    refuses: Sequence[int] = ()

    def described(self) -> Node:
        """The operation as OpenAPI has it, without its refusals and the parameters of its path."""
        node: Node = {"tags": [self.tag], "description": self.says, "responses": self._responses()}
        parameters = [
            {"name": name, "in": place, "required": place == "query" and name in self.needs, "schema": schema}
            for place, schemas in (("query", self.query), ("header", self.headers))
            for name, schema in (schemas or {}).items()
        ]
        if parameters:
            node["parameters"] = parameters
        if self.body is not None:
            node["requestBody"] = {"required": self.needs_body, "content": contents(self.body)}
        return node

    def _responses(self) -> Node:
        responses: Node = {}
        for status, schemas in self.answers.items():
            response: Node = {"description": "The answer", "content": contents(schemas)}
            headers = (self.given or {}).get(status)
            if headers:
                response["headers"] = {name: {"description": says, "schema": TEXT} for name, says in headers.items()}
            responses[str(status)] = response
        return responses


def contents(schemas: Mapping[str, Node]) -> Node:
    """Schemas by content type as OpenAPI has them."""
    return {kind: {"schema": schema} for kind, schema in schemas.items()}


def reference(name: str) -> Node:
    """Where a schema of the description's components is meant."""
    return {"$ref": f"#/components/schemas/{name}"}


def listed(items: Node) -> Node:
    """A list."""
    return {"type": "array", "items": items}


def record(required: Mapping[str, Node], optional: Mapping[str, Node] | None = None) -> Node:
    """A mapping with these members, and perhaps others."""
    node: Node = {"type": "object", "properties": {**required, **(optional or {})}}
    return {**node, "required": list(required)} if required else node


def either(*schemas: Node) -> Node:
    """One of several."""
    return {"anyOf": list(schemas)}
