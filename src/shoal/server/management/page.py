"""The description of the API as one page that loads nothing from anywhere."""

import html
from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

Node: TypeAlias = Mapping[str, object]

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#123}"
    "code{background:#eef3f6;padding:.1rem .3rem;border-radius:3px}h2{font-size:1.1rem;margin:2rem 0 .3rem}"
    "table{border-collapse:collapse}td{padding:.1rem 1rem .1rem 0;vertical-align:top}"
)


def page(description: Node) -> str:
    """The page.

    Parameters
    ----------
    description : mapping
        As OpenAPI has it.
    """
    facts = _node(description, "info")
    routes = [
        _route(path, method, _as_node(operation))
        for path, methods in _node(description, "paths").items()
        for method, operation in _as_node(methods).items()
    ]
    title = html.escape(f"{facts['title']} {facts['version']}")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>{html.escape(str(facts.get('description', '')))}</p>"
        '<p>For programs: <a href="openapi.json">openapi.json</a>. Send an API key as <code>Authorization: Bearer KEY'
        f"</code>.</p>{''.join(routes)}</html>"
    )


def _route(path: str, method: str, operation: Node) -> str:
    inputs = [_input(_as_node(one)) for one in cast("Sequence[object]", operation.get("parameters", []))]
    body = _body(operation)
    if body:
        inputs.append(f"<tr><td><code>body</code><td>{html.escape(body)}")
    said = html.escape(str(operation.get("description") or operation.get("summary", "")))
    return f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{said}</p><table>{''.join(inputs)}</table>"


def _input(one: Node) -> str:
    where = f"{one['in']}, required" if one.get("required") else str(one["in"])
    return f"<tr><td><code>{html.escape(str(one['name']))}</code><td>{html.escape(where)}"


def _body(operation: Node) -> str:
    content = _node(_node(operation, "requestBody"), "content")
    schemas = [_node(_as_node(kind), "schema") for kind in content.values()]
    return ", ".join(str(schema.get("$ref", "JSON")).rpartition("/")[2] for schema in schemas)


def _node(parent: Node, name: str) -> Node:
    return _as_node(parent.get(name, {}))


def _as_node(value: object) -> Node:
    assert isinstance(value, Mapping)
    return value
