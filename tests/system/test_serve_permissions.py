"""Every route of the real server, asked with every role: the permission table is what the server does."""

import grpc
import pytest
from serve_process import make_home, serving

import shoal
from shoal.security.permissions import Role
from shoal.server.calls import SERVICE
from shoal.server.discovery import Services
from shoal.server.grpc.inference_pb2 import DESCRIPTOR
from shoal.server.health import Health
from shoal.server.management import build
from shoal.server.metrics import Meter
from shoal.server.permissions import CALLS, TABLE
from shoal.server.predictions import PredictionsApp
from shoal.server.rest import InferenceApp

NAMES = {"model": "pumps", "name": "pumps", "version": "1", "run": "none", "id": "none"}
LOAD, UNLOAD = (f"/v2/repository/models/pumps/{verb}" for verb in ("load", "unload"))
METHODS = [method.name for method in DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]


@pytest.fixture(scope="module")
def home(module_database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("permissions") / "home"
    make_home(folder)
    return folder


@pytest.fixture(scope="module")
def server(home, tmp_path_factory):
    with shoal.open(home) as workspace:
        keys = {role: workspace.create_key(role, role).text for role in Role}
    with serving(home, tmp_path_factory.mktemp("server")) as running:
        yield running, keys


def routes(home):
    """What the doors really answer, found by looking into them; servers send them nothing else."""
    with shoal.open(home) as workspace:
        plane = workspace.data_plane()
        described = {
            (method, route.path)
            for route in _flat(build(workspace).routes)
            for method in route.methods
            if method != "HEAD"
        }
        asked = {*InferenceApp(plane).handlers, *PredictionsApp(workspace.deferred(plane)).handlers}
    return described.union(asked, *(door.ROUTES for door in (Health, Services, Meter)))


def _flat(routes):
    for route in routes:
        if hasattr(route, "methods"):
            yield route
        else:
            yield from _flat(getattr(route, "routes", None) or route.original_router.routes)


def test_every_route_is_in_the_table_and_every_line_of_it_is_a_route(home):
    assert routes(home) == {(method, template) for method, template, _ in TABLE}


def test_no_route_comes_twice():
    assert len({(method, template) for method, template, _ in TABLE}) == len(TABLE)


@pytest.mark.parametrize(("method", "template", "permission"), TABLE, ids=lambda cell: str(cell))
def test_a_route_asks_for_what_the_table_says(server, method, template, permission):
    running, keys = server
    path = template
    for name, value in NAMES.items():
        path = path.replace(f"{{{name}}}", value)
    with running.client() as client:
        nobody = client.request(method, path)
        wrong = client.request(method, path, headers={"x-api-key": keys[Role.ADMIN][:-1] + "x"})
        assert (nobody.status_code == 401) == (permission is not None)
        assert (wrong.status_code == 401) == (permission is not None)
        for role in Role:
            # Never a body: a caller who may is let in, and told that the request is not complete, or changes nothing
            # but for unloading, which is taken back.
            answer = client.request(method, path, headers={"x-api-key": keys[role]})
            allowed = permission is None or permission in role.permissions
            assert (answer.status_code not in (401, 403)) == allowed, (role, answer.text)
            assert answer.status_code < 500, answer.text  # nor is the fleet away
            if allowed and answer.status_code == 404:  # by the handler that did not find it, not for want of one
                said = answer.json()["error"]
                assert any(repr(name) in said or f"{name}@" in said for name in NAMES.values()), answer.text
            assert "Traceback" not in answer.text
            if allowed and path == UNLOAD:
                assert client.post(LOAD, headers={"x-api-key": keys[role]}).status_code == 200
        # Whatever comes next is asked of a server that serves the fleet.
        assert client.get("/v2/models/pumps/ready", headers={"x-api-key": keys[Role.ADMIN]}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/v3", "/docs", "/openapi.json", "/api/v1", "/api/v1/%6beys", "/api/v1/fleets%2fpumps", "/v2/models//infer",
     "//api/v1/keys", "/api/v1/keys/"],
)  # fmt: skip
def test_what_is_not_in_the_table_does_not_exist(server, path):
    running, keys = server
    with running.client() as client:
        assert client.get(path).status_code == 401
        answer = client.get(path, headers={"x-api-key": keys[Role.ADMIN]})
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]


def test_a_wrong_method_is_said_so_to_those_who_may_know(server):
    running, keys = server
    with running.client() as client:
        assert client.delete("/v2").status_code == 401
        answer = client.delete("/v2", headers={"x-api-key": keys[Role.READER]})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


def test_every_call_is_in_the_table_and_every_line_of_it_is_a_call():
    assert sorted(METHODS) == sorted(CALLS)


@pytest.mark.parametrize("method", METHODS)
def test_a_call_asks_for_what_the_table_says(server, method):
    running, keys = server
    permission, right = CALLS[method], keys[Role.ADMIN]
    with grpc.insecure_channel(running.grpc) as channel:
        codes = [code_of(channel, method, key) for key in [None, right[:-1] + "x", *(keys[role] for role in Role)]]
    assert {code == "UNAUTHENTICATED" for code in codes[:2]} == {permission is not None}
    for role, code in zip(Role, codes[2:], strict=True):
        allowed = permission is None or permission in role.permissions
        assert (code not in ("UNAUTHENTICATED", "PERMISSION_DENIED")) == allowed, (role, code)
        assert code not in ("UNIMPLEMENTED", "INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"), (role, code)


def code_of(channel, method, key):
    """What becomes of a call with an empty message."""
    path, options = f"/{SERVICE}/{method}", {"metadata": [("x-api-key", key)] if key else [], "timeout": 30}
    try:
        if "Stream" in method:
            list(channel.stream_stream(path)(iter([b""]), **options))  # a call has not ended before all was read
        else:
            channel.unary_unary(path)(b"", **options)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def test_errors_of_the_management_api_are_in_our_form(server):
    running, keys = server
    with running.client(keys[Role.ADMIN]) as client:
        said = [
            client.get("/api/v1/fleets/nothing"),
            client.get("/api/v1/fleets/pumps/snapshots/abc"),
            client.get("/api/v1/runs?limit=-1"),
            client.get(f"/api/v1/fleets/pumps/models?offset={2**70}"),
            client.post("/api/v1/fleets/pumps/promote", content=b"{", headers={"content-type": "application/json"}),
            client.post("/api/v1/fleets/pumps/promote", json={"version": 99}),
            client.post("/api/v1/fleets/pumps/promote", json={"version": 1, "unknown": 1}),
            client.put("/api/v1/serving/pumps", json={"spec": {"rulez": []}}),
            client.post("/api/v1/keys/none/revoke"),
        ]
    assert [answer.status_code for answer in said] == [404, 404, 400, 400, 400, 404, 400, 400, 404]
    assert all(list(answer.json()) == ["error"] for answer in said)


def test_the_documentation_loads_nothing_from_anywhere(server):
    running, keys = server
    with running.client(keys[Role.READER]) as client:
        page = client.get("/api/v1/docs")
        described = client.get("/api/v1/openapi.json").json()
    assert "http" not in page.text
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert set(described["paths"]) == {path for _, path, _ in TABLE}


def test_keys_are_made_listed_rotated_and_revoked_over_http(server):
    running, keys = server
    with running.client(keys[Role.ADMIN]) as client:
        made = client.post("/api/v1/keys", json={"name": "shop", "role": "predictor", "expires_s": 86_400})
        assert made.status_code == 201
        rotated = client.post(f"/api/v1/keys/{made.json()['id']}/rotate", json={"overlap_s": 3600})
        assert rotated.status_code == 201
        listed = client.get("/api/v1/keys")
        revoked = client.post(f"/api/v1/keys/{rotated.json()['id']}/revoke")
        audit = client.get("/api/v1/audit?limit=5").json()
    assert revoked.json()["revoked_at"] is not None
    assert {entry["name"] for entry in listed.json()} >= {"shop", "admin"}
    assert all("hash" not in entry and "key" not in entry for entry in listed.json())
    assert {entry["actor"] for entry in audit[:3]} == {"admin"}
