"""``shoal.connect`` against real servers: what a workspace says of its registry, a client says in the same words."""

import asyncio
import dataclasses
import datetime as dt

import httpx
import polars as pl
import pytest
from serve_process import make_home, serving, wait_until
from test_connect import rows

import shoal
from shoal.errors import Conflict, Forbidden, InvalidInput, InvalidSpec, NotFound, Unauthenticated
from shoal.security.permissions import Role

SPEC = {"checks": {"inputs": {"a": {"max": 5}}}, "rules": {"size": "CASE WHEN prediction > 5 THEN 'big' END"}}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A home with a history, keys of every role, and a server with a port of its own for management."""
    folder = tmp_path_factory.mktemp("registry")
    home = folder / "home"
    make_home(home)
    pl.DataFrame({"device": ["d1"], "b": [1.5]}).write_parquet(folder / "devices.parquet")
    with shoal.open(home, actor="ann") as workspace:
        workspace.promote("pumps", 2, reason="better")
        workspace.rollback("pumps", reason="was not")
        workspace.promote("pumps", 2, alias="canary")
        workspace.set_source("devices", {"kind": "parquet", "path": str(folder / "devices.parquet")})
        hook = {"kind": "webhook", "url": "https://x.example/y", "hosts": ["x.example"], "secret": "${SECRET}"}
        workspace.set_sink("hook", hook)
        workspace.set_sink("lake", {"kind": "parquet_sink", "folder": str(folder / "lake")})
        workspace.set_store("water", folder / "water")
        keys = {role: workspace.create_key(role, role).text for role in Role}
    with serving(home, folder / "server", "--admin-port", "0", "--workers", "2") as server:
        yield home, server, keys


@pytest.fixture
def client(world):
    _, server, keys = world
    with shoal.connect(server.url, api_key=keys[Role.ADMIN]) as made:
        yield made


@pytest.fixture
def workspace(world):
    with shoal.open(world[0], actor="ann") as opened:
        yield opened


LOOKUPS = {
    "fleets": lambda one: one.fleets(),
    "registry.fleets": lambda one: one.registry.fleets(tag="none"),
    "registry.fleet": lambda one: one.registry.fleet("pumps"),
    "snapshots": lambda one: one.registry.snapshots("pumps"),
    "snapshot": lambda one: one.registry.snapshot("pumps", 2),
    "lineage": lambda one: one.registry.lineage("pumps", 2),
    "history": lambda one: one.registry.alias_history("pumps"),
    "history of an alias": lambda one: one.registry.alias_history("pumps", "canary"),
    "model history": lambda one: one.registry.model_history("pumps", "d3"),
    "served": lambda one: one.registry.serving(),
    "stores": lambda one: one.registry.stores(),
    "audit": lambda one: one.registry.audit(limit=7),
    "aliases": lambda one: one.registry.aliases("pumps"),
    "wishes for a fleet": lambda one: one.registry.desired("pumps"),
    "check of the audit": lambda one: one.registry.verify_audit(),
    "failing check of the audit": lambda one: one.registry.verify_audit(noted="none"),
    "audit of one": lambda one: one.registry.audit(object="pumps@canary"),
    "runs": lambda one: one.runs(fleet="pumps"),
    "serving": lambda one: one.serving("pumps"),
    "sources": lambda one: one.sources(),
    "source": lambda one: one.source("devices"),
    "sinks": lambda one: one.sinks(),
    "sink": lambda one: one.sink("hook"),
}


@pytest.mark.parametrize("look", LOOKUPS.values(), ids=LOOKUPS)
def test_what_is_looked_up_is_what_the_workspace_says(client, workspace, look):
    assert look(client) == look(workspace)


EARLY = dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=2)))
PREDICTIONS, PURGE = "/api/v1/predictions", "/api/v1/predictions/purge"
REFUSALS = {
    "a state": (lambda one: one.predictions.listed(state="zz"), f"{PREDICTIONS}?state=zz"),
    "a kind": (lambda one: one.predictions.listed(kind="zz"), f"{PREDICTIONS}?kind=zz"),
    "a text": (lambda one: one.predictions.listed(since="yesterday"), f"{PREDICTIONS}?since=yesterday"),
    "a time before all": (
        lambda one: one.predictions.listed(since=EARLY), f"{PREDICTIONS}?since=0001-01-01T00:00:00%2B02:00",
    ),
    "below none": (lambda one: one.predictions.listed(limit=-1), f"{PREDICTIONS}?limit=-1"),
    "none": (lambda one: one.predictions.of_request("r", limit=0), "/api/v1/requests/r/predictions?limit=0"),
    "no number": (lambda one: one.predictions.listed(limit="ten"), f"{PREDICTIONS}?limit=ten"),
    "before no time": (lambda one: one.predictions.purge("pumps", before="now"), f"{PURGE}?fleet=pumps&before=now"),
    "a state of runs": (lambda one: one.runs(state="zz"), "/api/v1/runs?state=zz"),
    "no runs": (lambda one: one.ledger.runs(limit=-1), "/api/v1/runs?limit=-1"),
    "no audit": (lambda one: one.registry.audit(limit=0), "/api/v1/audit?limit=0"),
}  # fmt: skip


@pytest.mark.parametrize(("ask", "path"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_listed_is_refused_in_the_same_words_everywhere(world, client, workspace, ask, path):
    _, server, keys = world
    said = []
    for one in (workspace, client):
        with pytest.raises(InvalidInput) as refused:
            ask(one)
        said.append(str(refused.value))
    base = server.url if "predictions" in path else server.admin_url
    method = "POST" if "purge" in path else "GET"
    headers = {"authorization": f"Bearer {keys[Role.ADMIN]}"}
    told = httpx.request(method, base + path, headers=headers, trust_env=False)
    assert told.status_code == 400
    assert [*said, told.json()["error"]] == [said[0]] * 3


def test_a_time_of_any_zone_is_understood_everywhere(client, workspace):
    east = dt.datetime(2020, 1, 1, 5, tzinfo=dt.timezone(dt.timedelta(hours=5)))
    for one in (client, workspace):
        for since in (east, east.date(), "2020-01-01", "2020-01-01T00:00:00"):
            assert one.predictions.listed(since=since, until="2021-01-01T00:00:00+02:00", state="failed") == []
        with pytest.raises(InvalidInput, match="since 2020-01-01 05:00:00 has no time zone"):
            one.predictions.listed(since=east.replace(tzinfo=None))


@pytest.mark.parametrize("wish", [{"key": ("d1",)}, {"name": 3}, {"tag": ["a"]}])
def test_services_are_asked_for_by_texts(client, workspace, wish):
    said = set()
    for one in (client, workspace):
        with pytest.raises(InvalidInput) as refused:
            one.services(**wish)
        said.add(str(refused.value))
    [text] = said
    assert text.startswith(f"{next(iter(wish))} has to be a text")


@pytest.mark.parametrize("door", ["url", "admin_url"])
def test_either_address_of_a_server_leads_to_both_of_its_doors(world, door):
    _, server, keys = world
    with shoal.connect(getattr(server, door), api_key=keys[Role.OPERATOR]) as client:
        wait_until(lambda: client.services(name="pumps"))
        assert [one.name for one in client.fleets()] == ["pumps"]
        assert client.fleet("pumps").predict(rows(3)).height == 3
        assert client.predictions.listed(fleet="nobody") == []
        assert {one.name for one in client.statistics()} == {"pumps"}


def test_models_and_their_differences_are_frames_of_the_same_types(client, workspace):
    for reference in ("pumps:1", "pumps@canary"):
        assert client.fleet(reference).models.equals(workspace.fleet(reference).models)
        assert client.fleet(reference).models.schema == workspace.fleet(reference).models.schema
    there = client.fleet("pumps:1").diff(client.fleet("pumps:2"))
    here = workspace.fleet("pumps:1").diff(workspace.fleet("pumps:2"))
    assert here.height == 5
    assert there.equals(here)
    assert client.fleet("pumps:1").diff(client.fleet("pumps:1")).schema == here.schema


def test_long_listings_come_in_pages(client, monkeypatch):
    whole = client.fleet("pumps").models
    monkeypatch.setattr("shoal.client.questions.MOST", 2)
    assert client.fleet("pumps").models.equals(whole)


def test_what_is_said_about_a_fleet_changes(client, workspace):
    said = client.describe("pumps", owner="ops", tags=["wet", "blue"])
    assert (said.owner, said.tags, said.category) == ("ops", ("blue", "wet"), "")
    assert client.describe("pumps", description="all of them").owner == "ops"
    assert workspace.registry.fleet("pumps") == client.registry.fleet("pumps")
    assert workspace.describe("pumps", owner="", description="", tags=[]).owner == ""
    with pytest.raises(NotFound):
        client.describe("nobody", owner="x")
    with pytest.raises(InvalidInput):
        client.describe("pumps", tags=[""])


def test_serving_specs_are_set_from_afar_and_servers_follow(client, workspace, tmp_path):
    def predicted():
        """The columns of an answer; None where the spec changes between the question what there is and the request."""
        try:
            return client.fleet("pumps").predict(rows(3)).columns
        except InvalidInput:
            return None

    try:
        there = client.set_serving("pumps", SPEC)
        assert there == client.serving("pumps") == workspace.serving("pumps")
        wait_until(lambda: "size" in (predicted() or ()))
        file = tmp_path / "serving.yaml"
        file.write_text("limits: {max_rows: 7}")
        assert client.set_serving("pumps", file).limits.max_rows == 7
        assert client.set_serving("pumps", there) == there
        with pytest.raises((InvalidInput, InvalidSpec), match="rulez"):
            client.set_serving("pumps", {"rulez": []})
        with pytest.raises(NotFound):
            client.serving("nobody")
    finally:
        client.set_serving("pumps", {})
    wait_until(lambda: "size" not in (predicted() or ("size",)))


def test_what_is_served_is_pinned_followed_and_unloaded(client, workspace, world):
    served = lambda: client.fleet("pumps").version  # noqa: E731
    assert client.pin("pumps", 2).pinned == 2
    wait_until(lambda: served() == 2)
    assert client.pin("pumps", None).pinned is None
    wait_until(lambda: served() == 1)
    assert client.follow("pumps", "canary") == next(iter(workspace.registry.serving()))
    wait_until(lambda: served() == 2)
    assert client.follow("pumps", "champion").alias == "champion"
    wait_until(lambda: served() == 1)
    assert client.unload("pumps").loaded is False
    wait_until(lambda: not answers(client))
    assert workspace.load("pumps").loaded
    wait_until(lambda: all(answers_anew(world) for _ in range(10)))  # each worker hears of it by itself
    with pytest.raises(NotFound):
        client.pin("pumps", 99)


def answers(client):
    try:
        return client.fleet("pumps").version
    except (NotFound, shoal.errors.Unavailable):
        return None


def answers_anew(world):
    """What is answered on a connection of its own, which any of the workers may take."""
    _, server, keys = world
    with shoal.connect(server.url, api_key=keys[Role.ADMIN]) as client:
        return answers(client)


def test_keys_are_made_listed_rotated_and_revoked(client, world):
    server, before = world[1], dt.datetime.now(dt.UTC)
    made = client.create_key("shop", Role.PREDICTOR, expires_s=3600)
    assert (made.record.name, made.record.role, made.record.hash) == ("shop", Role.PREDICTOR, "")
    assert before <= made.record.expires_at - dt.timedelta(hours=1) <= made.record.created_at
    assert made.record.created_at <= dt.datetime.now(dt.UTC)
    with shoal.connect(server.url, api_key=made.text) as shop:
        wait_until(lambda: allowed(shop))
        wait_until(lambda: refusal(shop.fleets) is Forbidden)  # another process than the one that predicts
        rotated = client.rotate_key(made.record.id, overlap_s=0)
        wait_until(lambda: not allowed(shop))
    assert rotated.record.name == "shop"
    listed = {record.id: record for record in client.registry.keys()}  # noqa: SIM118 - no mapping
    assert listed[rotated.record.id] == rotated.record
    assert client.revoke_key(rotated.record.id).revoked_at is not None
    assert client.revoke_key(rotated.record.id).revoked_at is not None, "twice does no harm"
    with pytest.raises(Conflict):
        client.rotate_key(rotated.record.id)


def allowed(client):
    return refusal(lambda: client.fleet("pumps")) is not Unauthenticated


def refusal(ask):
    try:
        ask()
    except (Unauthenticated, Forbidden) as error:
        return type(error)
    except (NotFound, shoal.errors.Unavailable):  # the key was taken, whatever the fleet is doing
        return None
    return None


def test_keys_are_the_same_but_for_their_digest(client, workspace):
    here = [dataclasses.replace(record, hash="") for record in workspace.registry.keys()]  # noqa: SIM118
    assert client.registry.keys() == here


def test_definitions_are_not_for_everybody_and_nobody_sets_them(world):
    _, server, keys = world
    with shoal.connect(server.admin_url, api_key=keys[Role.READER]) as reader, pytest.raises(Forbidden):
        reader.sources()
    with server.client(keys[Role.ADMIN]) as http:
        for path in ("sources/devices", "sinks/hook", "stores"):
            for method in ("PUT", "POST", "DELETE"):
                assert http.request(method, f"{server.admin_url}/api/v1/{path}", json={}).status_code == 405


def test_the_client_of_an_event_loop_says_the_same(world, workspace):
    _, server, keys = world

    async def ask():
        async with shoal.connect_async(server.url, api_key=keys[Role.ADMIN]) as client:
            fleet, second = await asyncio.gather(client.fleet("pumps:1"), client.fleet("pumps:2"))
            return await asyncio.gather(
                fleet.models(), fleet.diff(second), client.registry.snapshots("pumps"), client.sources(),
                client.serving("pumps"), client.registry.audit(limit=3), client.ledger.runs(),
            )  # fmt: skip

    models, diff, snapshots, sources, spec, audit, runs = asyncio.run(ask())
    assert models.equals(workspace.fleet("pumps:1").models)
    assert diff.equals(workspace.fleet("pumps:1").diff(workspace.fleet("pumps:2")))
    assert snapshots == workspace.registry.snapshots("pumps")
    assert sources == workspace.sources()
    assert spec == workspace.serving("pumps")
    assert audit == workspace.registry.audit(limit=3)
    assert runs == workspace.runs()
