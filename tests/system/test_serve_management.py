"""The management API of a real server: what it takes, and what it refuses rather than guess at it."""

import re

import pytest
from serve_process import make_home, serving

import shoal
from shoal.server.management import build
from shoal.server.permissions import TABLE

API = "/api/v1"
FLEET = f"{API}/fleets/pumps"


@pytest.fixture(scope="module")
def home(module_database, tmp_path_factory):
    made = tmp_path_factory.mktemp("management") / "home"
    make_home(made)
    with shoal.open(made, actor="ann") as workspace:
        workspace.promote("pumps", 2)
    return made


@pytest.fixture(scope="module")
def client(home, tmp_path_factory):
    with serving(home, tmp_path_factory.mktemp("server")) as server, server.client() as client:
        yield client


@pytest.fixture
def state(client):
    """What a refusal must leave as it is."""

    def look():
        return [client.get(path).json() for path in (FLEET, f"{API}/serving/pumps", f"{API}/keys", f"{API}/audit")]

    before = look()
    yield before
    assert look() == before


def refusal(answer, status=400):
    assert answer.status_code == status, answer.text
    (said,) = answer.json().values()
    return said


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", f"{FLEET}/promote", {"version": True}),
        ("POST", f"{FLEET}/promote", {"version": "1"}),
        ("POST", f"{FLEET}/promote", {"version": " 1 "}),
        ("POST", f"{FLEET}/promote", {"version": 1.5}),
        ("POST", f"{FLEET}/promote", {"version": 1, "expected": "2"}),
        ("POST", f"{FLEET}/promote", {"version": 1, "reason": 7}),
        ("POST", f"{FLEET}/rollback", {"expected": True}),
        ("PUT", f"{API}/serving/pumps", {"pinned": True}),
        ("PUT", f"{API}/serving/pumps", {"pinned": "1"}),
        ("PUT", f"{API}/serving/pumps", {"loaded": "off"}),
        ("PUT", f"{API}/serving/pumps", {"loaded": 0}),
        ("PUT", FLEET, {"owner": 1}),
        ("PUT", FLEET, {"tags": "wet"}),
        ("POST", f"{API}/keys", {"name": "x", "role": "reader", "expires_s": "60"}),
        ("POST", f"{API}/keys", {"name": "x", "role": "reader", "expires_s": True}),
        ("POST", f"{API}/keys", {"name": "x", "role": "READER"}),
        ("POST", f"{API}/keys/none/rotate", {"overlap_s": "1"}),
    ],
)
def test_a_value_of_another_type_is_not_taken_for_what_it_may_mean(client, state, method, path, body):
    assert re.match(r"body\.\w+: Input should be", refusal(client.request(method, path, json=body)))


def test_every_body_is_exactly_of_the_described_types(home):
    with shoal.open(home) as workspace:
        application = build(workspace)
        routes = [
            route
            for part in application.routes
            if hasattr(part, "original_router")
            for route in part.original_router.routes
        ]
        bodies = [route.body_field.field_info.annotation for route in routes if route.body_field]
        described = [one for node in application.openapi()["paths"].values() for one in node.values()]
    assert len(bodies) == sum("requestBody" in one for one in described) > 0
    for body in bodies:
        assert (body.model_config["strict"], body.model_config["extra"]) == (True, "forbid")


def test_every_route_refuses_a_parameter_that_it_does_not_know_and_says_which_there_are(client, state):
    """All of the permission table below /api/v1, those of FastAPI and the others."""
    described = client.get(f"{API}/openapi.json").json()["paths"]
    for method, path in [(method, path) for method, path, _ in TABLE if path.startswith(API)]:
        parameters = described[path][method.lower()].get("parameters", [])
        address = re.sub(r"{(\w+)}", lambda part: {"name": "pumps", "version": "1"}.get(part[1], "1-1"), path)
        said = refusal(client.request(method, address, params={"zz": "1"}))
        assert said.startswith("'zz' is not known here; there "), (method, path, said)
        assert all(one["name"] in said for one in parameters if one["in"] == "query")


def test_what_is_misspelt_is_not_ignored(client):
    for path in (f"{API}/fleets?tagg=zz", f"{API}/runs?fleeet=zz", f"{API}/audit?objekt=x",
                 f"{FLEET}/history?alais=zz", f"{FLEET}/models?vesion=1"):  # fmt: skip
        assert "is not known here; there is " in refusal(client.get(path))
    assert client.get(f"{API}/fleets", params={"tag": "zz"}).json() == []


def test_an_absent_body_is_an_empty_one_where_nothing_has_to_be_said(client):
    for method, path in (("PUT", FLEET), ("PUT", f"{API}/serving/pumps")):
        assert client.request(method, path).json() == client.request(method, path, json={}).json()
    assert client.post(f"{FLEET}/rollback").json()["after"] == 1
    assert client.post(f"{FLEET}/promote", json={"version": 2}).status_code == 200
    assert client.post(f"{FLEET}/rollback", json={}).json()["after"] == 1
    assert client.post(f"{FLEET}/promote", json={"version": 2}).status_code == 200
    assert "Field required" in refusal(client.post(f"{FLEET}/promote"))
    assert "no API key" in refusal(client.post(f"{API}/keys/none/rotate"), 404)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+10:00", "yesterday", "", "12:00"])
def test_what_is_no_time_is_refused(client, state, text):
    for name in ("since", "until"):
        assert f"{name} " in refusal(client.get(f"{API}/predictions", params={name: text}))
    purge = {"fleet": "pumps", "before": text}
    assert "2026-01-31" in refusal(client.post(f"{API}/predictions/purge", params=purge))


@pytest.mark.parametrize(
    "text", ["2026-01-31", "2026-01-31T12:00", "2026-01-31 12:00:00+01:00", "2026-01-31T12:00:00Z"]
)
def test_times_are_those_of_the_command_line(client, text):
    for name in ("since", "until"):
        assert client.get(f"{API}/predictions", params={name: text}).json() == []
    purge = {"fleet": "pumps", "before": text}
    assert client.post(f"{API}/predictions/purge", params=purge).json() == {"purged": 0}


def test_what_is_not_there_is_said_so(client, state):
    assert "no alias 'zz'" in refusal(client.get(f"{FLEET}/history?alias=zz"), 404)
    assert "no snapshot 2147483647" in refusal(client.get(f"{FLEET}/models?version=2147483647"), 404)
    purge = {"fleet": "zz", "before": "2026-01-31"}
    assert "no fleet 'zz'" in refusal(client.post(f"{API}/predictions/purge", params=purge), 404)
    assert "no fleet 'zz'" in refusal(client.post(f"{API}/predictions/replay", params={"fleet": "zz"}), 404)


def test_a_text_that_no_database_keeps_is_refused(client, state):
    assert "cannot keep this value" in refusal(client.put(FLEET, json={"owner": "a\x00b"}))
    body = {"version": 1, "reason": "a\x00b"}
    assert "cannot keep this value" in refusal(client.post(f"{FLEET}/promote", json=body))
