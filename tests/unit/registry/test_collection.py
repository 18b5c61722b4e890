import pytest

from shoal.errors import NotFound


def test_snapshots_that_anything_names_stay(registry, add):
    for _ in range(6):
        add()
    registry.promote("flights", 1, actor="ann")
    registry.promote("flights", 3, actor="ann")
    registry.rollback("flights", actor="ann")
    add(name="other")
    active = {("flights", 4), ("unregistered", 1)}
    kept = {"flights-1", "flights-3", "flights-4", "flights-6", "other-1"}
    assert registry.referenced(active=active) == kept
    given_up = registry.collect(active=active, actor="gc")
    assert sorted(snapshot.version for snapshot in given_up) == [2, 5]
    assert registry.referenced(active=active) == kept
    assert registry.collect(active=active, actor="gc") == []


def test_a_collected_snapshot_stays_on_record_but_is_not_used(registry, add):
    for _ in range(2):
        add()
    registry.collect(active=(), actor="gc")
    assert registry.snapshot("flights", 1).collected_at is not None
    assert registry.snapshot("flights", 2).collected_at is None
    for call in (lambda: registry.resolve("flights:1"), lambda: registry.promote("flights", 1, actor="ann")):
        with pytest.raises(NotFound, match="were collected on"):
            call()
    assert registry.alias_history("flights") == []


def test_a_digest_shared_with_a_snapshot_that_stays_is_kept(registry, add):
    add(digest="same")
    add(digest="same")
    assert [s.version for s in registry.collect(active=(), actor="gc")] == [1]
    assert registry.referenced(active=()) == {"same"}
