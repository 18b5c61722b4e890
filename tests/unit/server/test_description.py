"""The description of the API is that of the whole stack: the permission table says what there is."""

import json
import re

import pytest
from jsonschema_rs import meta

import shoal
from shoal.server.management import build
from shoal.server.management.description import describe
from shoal.server.management.protocol import OPERATIONS
from shoal.server.permissions import TABLE

ERROR = {"$ref": "#/components/schemas/Error"}


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """What FastAPI knows by itself."""
    with shoal.open(tmp_path_factory.mktemp("home")) as workspace:
        return build(workspace).openapi()


@pytest.fixture(scope="module")
def description(known):
    return describe(known)


def operations(description):
    return {
        (method.upper(), path): operation
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }


def test_every_route_is_described_and_none_is_made_up(description):
    assert list(operations(description)) == list(dict.fromkeys(operations(description)))
    assert set(operations(description)) == {(method, path) for method, path, _ in TABLE}


def test_every_route_is_known_to_fastapi_or_described_by_hand_never_to_both(known):
    by_itself, by_hand = set(operations(known)), set(OPERATIONS)
    assert by_itself | by_hand == {(method, path) for method, path, _ in TABLE}
    assert not by_itself & by_hand


@pytest.mark.parametrize(("method", "path", "permission"), TABLE, ids=lambda cell: str(cell))
def test_a_route_says_what_it_does_who_may_and_how_it_refuses(description, method, path, permission):
    operation = operations(description)[method, path]
    assert operation["description"]
    assert bool(operation["security"]) == (permission is not None)
    assert operation.get("x-permission") == permission
    named = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
    assert named == set(re.findall(r"{(\w+)}", path))
    responses = operation["responses"]
    assert any(status.startswith("2") for status in responses)
    assert {"400", "503", "504"} <= set(responses)
    assert ({"401", "403"} <= set(responses)) == (permission is not None)
    assert "422" not in responses
    for status in set(responses) - {"200", "201", "202"}:
        refusal = description["components"]["responses"][status]
        assert refusal["content"]["application/json"]["schema"] == ERROR


def test_names_of_operations_are_unique(description):
    names = [operation["operationId"] for operation in operations(description).values()]
    assert len(set(names)) == len(names)


def test_every_reference_leads_somewhere_and_every_schema_is_one(description):
    components = description["components"]
    references = set(re.findall(r'"\$ref": "#/components/(\w+)/(\w+)"', json.dumps(description)))
    assert references
    assert all(name in components[kind] for kind, name in references)
    assert {name for kind, name in references if kind == "schemas"} == set(components["schemas"])
    for schema in components["schemas"].values():
        assert meta.is_valid(schema)
