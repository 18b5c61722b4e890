"""What servers share: desired state, API keys, heartbeats, stores and named sources; on each kind of database."""

import contextlib
import datetime as dt
from collections.abc import Iterator

import pytest

from shoal.errors import Conflict, InvalidInput, NotFound
from shoal.registry import Registry, ServerRecord
from shoal.registry.servers import FORGOTTEN_AFTER_S
from shoal.security.permissions import Role
from shoal.storage.sql import Database

NOW = dt.datetime(2026, 11, 21, 4, 40, 12, tzinfo=dt.UTC)


class HandClock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> dt.datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def database(databases, clock) -> Iterator[Database]:
    with contextlib.closing(Database(databases.migrated(), clock=clock)) as made:
        yield made


def by_name(registry: Registry) -> dict[str, object]:
    return {one.fleet: one for one in registry.serving()}


def test_the_head_grows_with_every_audited_change_and_no_other(registry, add):
    heads = [registry.head()]
    for change in (
        lambda: registry.create_fleet("pumps", actor="ann"),
        lambda: add(),
        lambda: registry.promote("flights", 1, actor="ann"),
        lambda: registry.set_serving("flights", actor="ann", loaded=False),
        lambda: registry.create_key(id="k", name="n", role=Role.READER, hash="h", actor="ann"),
        lambda: registry.set_store("retail", "/srv/retail", actor="ann"),
        lambda: registry.set_source("customers", {"kind": "parquet", "path": "/c.parquet"}, actor="ann"),
    ):
        change()
        heads.append(registry.head())
    assert heads == sorted(set(heads))
    registry.beat(ServerRecord(id="s", url="http://a", started_at=NOW))
    registry.forget_server("s")
    assert registry.head() == heads[-1]
    assert heads[-1].number == registry.audit()[0].number


def test_by_default_the_champion_is_served(registry, add):
    add()
    registry.create_fleet("pumps", category="plant", tags=["b", "a"], actor="ann")
    flights, pumps = registry.serving()
    assert (flights.fleet, flights.alias, flights.pinned, flights.loaded, flights.spec, flights.changed_at) == (
        "flights", "champion", None, True, {}, None,
    )  # fmt: skip
    assert flights.snapshot is None
    assert (pumps.category, pumps.tags) == ("plant", ("a", "b"))
    registry.promote("flights", 1, actor="ann")
    assert by_name(registry)["flights"].snapshot == registry.resolve("flights")


def test_what_is_said_stays_until_something_else_is_said(registry, add):
    for _ in range(3):
        add()
    registry.promote("flights", 1, actor="ann")
    registry.promote("flights", 2, alias="canary", actor="ann")
    told = registry.set_serving("flights", actor="bob", alias="canary", spec={"rules": [{"when": "x > 1"}]})
    assert (told.loaded, told.alias, told.pinned, told.snapshot.version) == (True, "canary", None, 2)
    assert told.changed_at == NOW
    told = registry.set_serving("flights", actor="bob", pinned=3)
    assert (told.alias, told.snapshot.version, told.spec) == ("canary", 3, {"rules": [{"when": "x > 1"}]})
    registry.promote("flights", 1, alias="canary", actor="ann")
    assert by_name(registry)["flights"].snapshot.version == 3
    told = registry.set_serving("flights", actor="bob", loaded=False, pinned=None)
    assert (told.loaded, told.pinned, told.snapshot.version) == (False, None, 1)
    assert registry.set_serving("flights", actor="bob", spec={}).spec == {}
    assert by_name(registry)["flights"] == registry.set_serving("flights", actor="bob")
    entry = registry.audit()[1]
    assert (entry.action, entry.object, entry.actor) == ("serving.set", "flights", "bob")
    assert (entry.before, entry.after) == ({"loaded": True, "pinned": 3}, {"loaded": False, "pinned": None})


def test_what_is_no_news_makes_none(registry, add, clock):
    add()
    registry.set_serving("flights", actor="ann", pinned=1, spec={"a": (1, 2)})
    head = registry.head()
    clock.move(5)
    again = registry.set_serving("flights", actor="bob", loaded=True, pinned=1, spec={"a": [1, 2]})
    assert registry.head() == head
    assert again.changed_at == NOW


def test_what_cannot_be_served_is_refused(registry, add):
    add()
    head = registry.head()
    with pytest.raises(NotFound, match="no fleet"):
        registry.set_serving("nothing", actor="ann", loaded=True)
    with pytest.raises(NotFound):
        registry.set_serving("flights", actor="ann", pinned=2)
    with pytest.raises(InvalidInput, match="alias"):
        registry.set_serving("flights", actor="ann", alias="not safe/")
    with pytest.raises(NotFound, match="no alias 'canary', and no other yet; promote"):
        registry.set_serving("flights", actor="ann", alias="canary")
    assert registry.head() == head


def test_an_alias_has_to_be_there_to_be_followed(registry, add):
    add()
    assert registry.set_serving("flights", actor="ann", alias="champion").snapshot is None, "it is going to be there"
    registry.promote("flights", 1, alias="canary", actor="ann")
    assert registry.set_serving("flights", actor="ann", alias="champion").alias == "champion", "it was said before"
    assert registry.set_serving("flights", actor="ann", alias="canary").snapshot.version == 1
    head = registry.head()
    for alias in ("champion", "canry"):
        with pytest.raises(NotFound, match=f"no alias '{alias}', only canary; promote"):
            registry.set_serving("flights", actor="ann", alias=alias)
    assert registry.head() == head
    assert registry.desired("flights") == by_name(registry)["flights"]
    with pytest.raises(NotFound, match="no fleet"):
        registry.desired("nothing")


def test_what_is_pinned_is_not_collected(registry, add):
    for _ in range(3):
        add()
    registry.set_serving("flights", actor="ann", pinned=2)
    assert [one.version for one in registry.collect(active=(), actor="gc")] == [1]
    assert by_name(registry)["flights"].snapshot.version == 2
    with pytest.raises(NotFound):
        registry.set_serving("flights", actor="ann", pinned=1)
    registry.set_serving("flights", actor="ann", pinned=None)
    assert [one.version for one in registry.collect(active=(), actor="gc")] == [2]


def make(registry: Registry, key_id: str = "k1", **more: object) -> object:
    given = {"name": "shop", "role": Role.PREDICTOR, "hash": f"digest of {key_id}", "actor": "ann"}
    return registry.create_key(id=key_id, **given | more)


def test_keys_are_made_listed_and_found(registry, clock):
    first = make(registry)
    clock.move(1)
    second = make(registry, "k2", role=Role.ADMIN, expires_at=NOW + dt.timedelta(days=1))
    assert registry.keys() == [second, first]
    assert registry.key("k1") == first
    assert (first.created_at, first.created_by, first.role, first.expires_at) == (NOW, "ann", Role.PREDICTOR, None)
    with pytest.raises(NotFound, match="shoal keys list"):
        registry.key("k3")
    with pytest.raises(Conflict):
        make(registry)
    for bad in ({"name": " "}, {"name": "x" * 101}, {"name": "a\nb"}, {"expires_at": clock.now}):
        with pytest.raises(InvalidInput):
            make(registry, "k4", **bad)
    assert len(registry.keys()) == 2


def test_a_key_is_revoked_once(registry, clock):
    make(registry)
    revoked = registry.revoke_key("k1", actor="bob")
    assert revoked.revoked_at == NOW
    head = registry.head()
    clock.move(10)
    assert registry.revoke_key("k1", actor="cyd") == revoked == registry.key("k1")
    assert registry.head() == head
    with pytest.raises(NotFound):
        registry.revoke_key("k9", actor="bob")


def test_a_key_is_replaced_and_taken_for_a_while_yet(registry, clock):
    make(registry, role=Role.OPERATOR)
    clock.move(5)
    old, new = registry.rotate_key("k1", new_id="k2", new_hash="other", overlap_s=60, actor="bob")
    assert old.expires_at == clock.now + dt.timedelta(seconds=60)
    assert (new.name, new.role, new.hash, new.created_by, new.expires_at) == (
        "shop", Role.OPERATOR, "other", "bob", None,
    )  # fmt: skip
    assert registry.keys() == [new, old]
    clock.move(61)
    with pytest.raises(Conflict, match="expired"):
        registry.rotate_key("k1", new_id="k3", new_hash="x", overlap_s=0, actor="bob")


def test_replacing_does_not_prolong_a_key(registry):
    soon = NOW + dt.timedelta(seconds=10)
    make(registry, expires_at=soon)
    old, new = registry.rotate_key(
        "k1", new_id="k2", new_hash="x", overlap_s=3600, expires_at=soon + dt.timedelta(days=1), actor="bob"
    )
    assert (old.expires_at, new.expires_at) == (soon, soon + dt.timedelta(days=1))


def test_a_key_that_expires_is_replaced_by_one_that_is_taken_as_long(registry, clock):
    make(registry, expires_at=NOW + dt.timedelta(days=90))
    clock.move(86_400)
    _, new = registry.rotate_key("k1", new_id="k2", new_hash="x", overlap_s=60, actor="bob")
    assert new.expires_at == clock.now + dt.timedelta(days=90)


def test_what_cannot_be_replaced_stays_as_it_was(registry):
    make(registry)
    make(registry, "k2")
    registry.revoke_key("k2", actor="ann")
    before, head = registry.keys(), registry.head()
    for key_id, more, error in (
        ("k1", {"new_id": "k2"}, Conflict),
        ("k1", {"overlap_s": -1}, InvalidInput),
        ("k1", {"overlap_s": float("nan")}, InvalidInput),
        ("k1", {"expires_at": NOW}, InvalidInput),
        ("k2", {}, Conflict),
        ("k9", {}, NotFound),
    ):
        with pytest.raises(error):
            registry.rotate_key(key_id, **{"new_id": "k7", "new_hash": "x", "overlap_s": 1, "actor": "b"} | more)
    assert (registry.keys(), registry.head()) == (before, head)


def test_the_audit_tells_of_keys_without_their_digests(registry):
    make(registry, hash="secret digest")
    registry.rotate_key("k1", new_id="k2", new_hash="secret digest 2", overlap_s=1, actor="bob")
    registry.revoke_key("k1", actor="cyd")
    told = registry.audit()[::-1]
    assert [(entry.action, entry.object, entry.actor) for entry in told] == [
        ("key.create", "key/k1", "ann"), ("key.rotate", "key/k1", "bob"), ("key.create", "key/k2", "bob"),
        ("key.revoke", "key/k1", "cyd"),
    ]  # fmt: skip
    assert "secret" not in repr(told)
    assert told[1].after["replaced_by"] == "k2"


def test_servers_are_known_while_they_tell_of_themselves(registry, clock):
    first = ServerRecord(
        id="a", url="http://a", grpc_url="grpc://a", admin_url="http://a:1", category="plant",
        fleets={"flights": 3}, staleness_s=0.5, started_at=NOW,
    )  # fmt: skip
    second = ServerRecord(id="b", url="http://b", started_at=NOW)
    assert registry.beat(first).beat_at == NOW
    clock.move(10)
    registry.beat(second)
    assert [server.id for server in registry.servers(5)] == ["b"]
    assert [server.id for server in registry.servers(10)] == ["a", "b"]
    clock.move(1)
    told = registry.beat(ServerRecord(id="a", url="http://a2", fleets={"flights": 4}, started_at=NOW))
    assert registry.servers(0) == [told]
    told = registry.beat(
        ServerRecord(id="a", url="http://a2", fleets={"flights": 4}, missed={"flights": 5, "pumps": 1}, started_at=NOW)
    )
    assert registry.servers(0) == [told]
    assert registry.forget_server("a")
    assert not registry.forget_server("a")
    clock.move(FORGOTTEN_AFTER_S + 1)
    registry.beat(first)
    assert [server.id for server in registry.servers()] == ["a"], "b was silent for too long"


def test_categories_have_stores(registry):
    registry.set_store("retail", "/srv/retail", actor="ann")
    registry.set_store("plant", "/srv/plant", actor="ann")
    registry.set_store("retail", "/srv/more", actor="bob")
    head = registry.head()
    registry.set_store("retail", "/srv/more", actor="cyd")
    assert registry.head() == head
    assert [(one.category, one.folder, one.changed_by) for one in registry.stores()] == [
        ("plant", "/srv/plant", "ann"), ("retail", "/srv/more", "bob"),
    ]  # fmt: skip
    registry.set_store("plant", None, actor="ann")
    assert [one.category for one in registry.stores()] == ["retail"]
    assert registry.audit()[0].before == {"folder": "/srv/plant"}
    for category, folder in (("not safe/", "/x"), ("retail", "relative/path")):
        with pytest.raises(InvalidInput):
            registry.set_store(category, folder, actor="ann")


def test_sources_have_names(registry):
    spec = {"kind": "sql", "url": "postgresql://shop:${SHOP_PASSWORD}@db/shop", "table": "customers"}
    registry.set_source("customers", spec, actor="ann")
    assert registry.source("customers").spec == spec
    head = registry.head()
    registry.set_source("customers", dict(reversed(spec.items())), actor="bob")
    assert registry.head() == head
    registry.set_source("customers", {**spec, "table": "buyers"}, actor="bob")
    (source,) = registry.sources()
    assert (source.name, source.spec["table"], source.changed_by) == ("customers", "buyers", "bob")
    registry.set_source("customers", None, actor="ann")
    assert registry.sources() == []
    with pytest.raises(NotFound):
        registry.source("customers")
    with pytest.raises(InvalidInput):
        registry.set_source("not safe/", {}, actor="ann")


@pytest.mark.parametrize(
    "spec",
    [
        {"url": "postgresql://shop:geheim@db/shop"},
        {"url": "redis://:geheim@cache/0"},
        {"headers": [{"proxy": "http://u:${A}geheim@h"}]},
    ],
)
def test_passwords_are_not_kept(registry, spec):
    with pytest.raises(InvalidInput, match="environment variable") as caught:
        registry.set_source("customers", spec, actor="ann")
    assert "geheim" not in str(caught.value)
    assert registry.sources() == []
    assert registry.head().number == 0
