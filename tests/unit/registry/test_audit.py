import contextlib
import datetime as dt
import hashlib
import json
import re

import pytest
import sqlalchemy as sa

from shoal.registry import Registry
from shoal.storage.sql import Database


@pytest.fixture
def busy(registry, add, model):
    """A registry in which every kind of change has happened."""
    add((model,))
    registry.describe("flights", owner="ops", actor="bob")
    add()
    add()
    for version in (1, 2):
        registry.promote("flights", version, actor="bob", reason="why not")
    registry.rollback("flights", actor="cyd")
    add()
    registry.collect(active=(), actor="gc")
    return registry


def without_triggers(connection: sa.Connection) -> None:
    """What somebody can do who may do anything to the database."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        return
    for action in ("update", "delete"):
        connection.exec_driver_sql(f"DROP TRIGGER audit_refuse_{action}")


def test_every_change_left_an_entry(busy):
    entries = busy.audit()
    assert [(e.number, e.actor, e.action, e.object) for e in reversed(entries)] == [
        (1, "ann", "fleet.create", "flights"),
        (2, "ann", "snapshot.add", "flights:1"),
        (3, "bob", "fleet.describe", "flights"),
        (4, "ann", "snapshot.add", "flights:2"),
        (5, "ann", "snapshot.add", "flights:3"),
        (6, "bob", "alias.promote", "flights@champion"),
        (7, "bob", "alias.promote", "flights@champion"),
        (8, "cyd", "alias.rollback", "flights@champion"),
        (9, "ann", "snapshot.add", "flights:4"),
        (10, "gc", "snapshot.collect", "flights:3"),
    ]
    assert (entries[7].before, entries[7].after) == ({"owner": ""}, {"owner": "ops"})
    assert (entries[3].before, entries[3].after) == ({"version": 1}, {"version": 2, "reason": "why not"})
    assert all(entry.at.tzinfo is dt.UTC for entry in entries)


def test_entries_are_filtered_and_limited(busy):
    assert [entry.number for entry in busy.audit(object="flights@champion", limit=2)] == [8, 7]
    assert busy.audit(object="nothing") == []


def test_what_fails_leaves_no_entry(busy):
    before = busy.audit()
    for call in (
        lambda: busy.create_fleet("flights", actor="x"),
        lambda: busy.promote("flights", 99, actor="x"),
        lambda: busy.promote("flights", 2, actor="x", expected=99),
        lambda: busy.rollback("flights", alias="none", actor="x"),
    ):
        with pytest.raises(Exception, match=r"."):
            call()
    assert busy.audit() == before


def test_the_chain_can_be_checked_by_anybody(busy):
    """Recounts the digests with the standard library alone."""
    previous = ""
    for entry in reversed(busy.audit()):
        content = {
            "number": entry.number,
            "at": entry.at.isoformat(timespec="microseconds"),
            "actor": entry.actor,
            "action": entry.action,
            "object": entry.object,
            "before": entry.before,
            "after": entry.after,
            "previous": previous,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert entry.digest == hashlib.sha256(text.encode()).hexdigest()
        previous = entry.digest
    assert busy.verify_audit().newest == previous


def test_an_untouched_audit_verifies(busy, registry):
    check = busy.verify_audit()
    assert check.intact
    assert check.entries == 10
    registry.promote("flights", 2, actor="ann")
    assert registry.verify_audit(noted=check.newest).intact
    assert not registry.verify_audit(noted="0" * 64).intact


def test_an_empty_audit_verifies(registry):
    assert registry.verify_audit().intact


@pytest.mark.parametrize(
    ("tampering", "fault"),
    [
        ("UPDATE audit SET actor = 'nobody' WHERE number = 6", "entry 6 .* was changed"),
        ("UPDATE audit SET after = '{\"version\":2}' WHERE number = 6", "entry 6 .* was changed"),
        ("UPDATE audit SET at = '2020-01-01 00:00:00.000000' WHERE number = 6", "entry 6 .* was changed"),
        ("UPDATE audit SET digest = 'x' WHERE number = 6", "entry 6 .* was changed"),
        ("DELETE FROM audit WHERE number = 6", "entry 6 is missing"),
        ("DELETE FROM audit WHERE number > 8", "the end was cut"),
        ("DELETE FROM audit", "the end was cut"),
        ("UPDATE audit SET number = 100 WHERE number = 10", "entry 10 is missing"),
        ("INSERT INTO audit SELECT 11, at, 'x', action, object, before, after, digest, 'y' FROM audit WHERE number = 9",
         "entry 11 .* was changed"),
        ("UPDATE audit_head SET digest = 'x'", "the end was cut"),
        ("DELETE FROM audit_head", "the end was cut"),
    ],
)  # fmt: skip
def test_tampering_shows(busy, database, tampering, fault):
    with database.write() as connection:
        without_triggers(connection)
        connection.exec_driver_sql(tampering)
    check = busy.verify_audit()
    assert not check.intact
    assert any(re.search(fault, text) for text in check.faults)


@pytest.mark.parametrize("table", ["audit", "alias_changes"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET actor = 'x'", "DELETE FROM {}"])
def test_the_database_refuses_to_change_history(busy, database, table, statement):
    def tamper() -> None:
        with database.write() as connection:
            connection.exec_driver_sql(statement.format(table))

    with pytest.raises(sa.exc.IntegrityError, match="append-only"):
        tamper()
    assert busy.verify_audit().intact


def test_a_clock_set_back_does_not_break_the_chain(databases):
    moments = iter([dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2025, 1, 1, tzinfo=dt.UTC)])
    with contextlib.closing(Database(databases.migrated(), clock=lambda: next(moments))) as database:
        registry = Registry(database)
        registry.create_fleet("a", actor="ann")
        registry.create_fleet("b", actor="ann")
        assert registry.verify_audit().intact
        assert [entry.number for entry in registry.audit()] == [2, 1]
