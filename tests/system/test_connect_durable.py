"""Durable results from afar: found by the request that they answer, and forgotten by an admin."""

import datetime as dt

import httpx
import pytest

import shoal
from shoal.errors import Forbidden, InvalidInput, NotFound
from shoal.security.permissions import Role
from shoal.serving.payloads import decode_response
from tests.system.serve_process import make_home, request, serving


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A server that keeps every result, and a key of each role."""
    folder = tmp_path_factory.mktemp("durable")
    make_home(folder / "home")
    with shoal.open(folder / "home") as workspace:
        workspace.set_serving("pumps", {"store": "durable"})
        keys = {role: workspace.create_key(role, role).text for role in Role}
        with serving(folder / "home", folder / "server", "--no-grpc") as server:
            yield workspace, server, keys


def ask(server, key, request_id, device):
    with server.client(key) as client:
        told = client.post("/v2/models/pumps/infer", json=request(device), headers={"x-request-id": request_id})
        assert told.status_code == 200, told.text
        return told.json()


def test_results_are_found_by_request_as_in_the_workspace(world):
    workspace, server, keys = world
    for device in (1, 2):
        ask(server, keys[Role.PREDICTOR], "order/17+a:b", device)
    here = workspace.predictions.of_request("order/17+a:b")
    with shoal.connect(server.url, api_key=keys[Role.ADMIN]) as client:
        there = client.predictions.of_request("order/17+a:b")
        assert len(client.predictions.of_request("order/17+a:b", limit=1)) == 1
        assert client.predictions.of_request("order/17+a:b", principal="admin") == []
        assert client.predictions.of_request("nobody's") == []
        with pytest.raises(InvalidInput, match="limit"):
            client.predictions.of_request("order/17+a:b", limit=0)
    assert [one.id for one in there] == [one.id for one in here]
    assert len(there) == 2
    for one, other in zip(there, here, strict=True):
        assert (one.request, one.fleet, one.principal) == (None, "pumps", Role.PREDICTOR)
        told, kept = (decode_response(record.answer).outputs[0].data[0] for record in (one, other))
        assert told == kept


def test_callers_see_their_own(world):
    _, server, keys = world
    ask(server, keys[Role.ADMIN], "secret", 1)
    with shoal.connect(server.url, api_key=keys[Role.PREDICTOR]) as caller:
        assert caller.predictions.of_request("secret") == []
        assert caller.predictions.of_request("secret", principal="admin") == []
    with shoal.connect(server.url, api_key=keys[Role.OPERATOR]) as operator:
        assert len(operator.predictions.of_request("secret")) == 1


def test_only_an_admin_forgets(world):
    workspace, server, keys = world
    ask(server, keys[Role.PREDICTOR], "old", 1)
    now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
    with shoal.connect(server.url, api_key=keys[Role.OPERATOR]) as operator, pytest.raises(Forbidden):
        operator.predictions.purge("pumps", before=now)
    with shoal.connect(server.url, api_key=keys[Role.ADMIN]) as admin:
        with pytest.raises(InvalidInput, match="time zone"):
            admin.predictions.purge("pumps", before=dt.datetime(2026, 1, 1))
        assert admin.predictions.purge("pumps", before=now - dt.timedelta(days=1)) == 0
        with pytest.raises(NotFound, match="nobody"):
            admin.predictions.purge("nobody", before=now)
        assert admin.predictions.purge("pumps", before=now) >= 1
        assert workspace.predictions.of_request("old") == []
    for query in ("", "?fleet=pumps", "?before=2026-01-31T12:00:00Z", "?fleet=pumps&before=some+day"):
        refused = httpx.post(
            f"{server.url}/api/v1/predictions/purge{query}", headers={"x-api-key": keys[Role.ADMIN]}, timeout=60,
            trust_env=False,
        )  # fmt: skip
        assert refused.status_code == 400, query
