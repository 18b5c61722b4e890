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
    said = refusal(client.request(method, path, json=body))
    assert re.fullmatch(r"'\w+' has to be (a whole number|a number|a text|true or false|a list|one of '.*)", said)


def test_what_does_not_fit_is_said_in_a_sentence(client, state):
    promote, fields = f"{FLEET}/promote", "fields of the body are version, alias, expected, reason"
    for path, body, said in (
        (promote, {"verison": 1},
         f"'version' is missing; the {fields}; 'verison' is not known here; did you mean 'version'?"),
        (promote, {"version": 1, "zz": 1},
         f"'zz' is not known here; the {fields}"),
        (promote, {"version": 0}, "'version' has to be at least 1"),
        (promote, [1], "the body is no JSON object; its fields are version, alias, expected, reason"),
        (promote, None, "the body is missing; its fields are version, alias, expected, reason"),
        (f"{API}/keys", {"name": "x" * 101, "role": "reader"}, "'name' has to be a text of at most 100 characters"),
        (f"{API}/keys", {"name": "x", "role": "boss"},
         "'role' has to be one of 'predictor', 'reader', 'operator' or 'admin'"),
    ):  # fmt: skip
        sent = {} if body is None else {"json": body}
        assert refusal(client.post(path, **sent)) == said
    assert refusal(client.put(f"{API}/serving/pumps", json={"spec": "x"})) == "'spec' has to be an object"
    assert refusal(client.put(FLEET, json={"tags": ["a", 1]})) == "'tags[2]' has to be a text"
    said = "'before' is missing; the parameters are before, after, limit, offset"
    assert refusal(client.get(f"{FLEET}/diff", params={"after": "1"})) == said
    assert "the body is no JSON: " in refusal(
        client.post(promote, content=b"{", headers={"content-type": "application/json"})
    )


@pytest.mark.parametrize("text", ["x", "0", "-1", "1.5", "99999999999"])
def test_what_is_no_version_is_not_found_by_every_route(client, text):
    said = f"'{text}' is no version; versions are numbers, such as 3"
    assert refusal(client.get(f"{FLEET}/snapshots/{text}"), 404) == said
    assert refusal(client.get(f"/v2/models/pumps/versions/{text}"), 404) == said


def test_a_body_of_another_kind_is_refused_with_the_one_to_use(client, state):
    for headers in ({"content-type": "application/x-www-form-urlencoded"}, {"content-type": "text/plain"}, {}):
        answer = client.post(f"{FLEET}/promote", content=b'{"version": 1}', headers=headers)
        assert refusal(answer, 415) == "the content-type has to be application/json"


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
    assert "the body is missing" in refusal(client.post(f"{FLEET}/promote"))
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
