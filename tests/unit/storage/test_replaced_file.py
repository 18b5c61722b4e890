"""A file of SQLite that is replaced under running processes, or taken away."""

import shutil
import sqlite3
import threading
import time
from types import SimpleNamespace

import pytest

from shoal.errors import StorageError
from shoal.registry import Registry
from shoal.storage import sqlite_engine
from shoal.storage.sql import Database


@pytest.fixture
def path(sqlite_databases, tmp_path):
    return tmp_path / sqlite_databases.migrated().rpartition("/")[2]


def opened(path, **options):
    return Registry(Database(f"sqlite:///{path}", **options))


def backup(path):
    """A copy as SQLite makes it, beside the file."""
    copy = path.with_name("copy.db")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    return copy


def put_back(path, copy):
    copy.replace(path)
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def until_read(registry, seconds=20):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return registry.fleets()
        except StorageError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_backup_that_is_put_back_is_read_and_written_once_it_has_settled(path):
    registry = opened(path)
    registry.create_fleet("before", actor="ann")
    copy = backup(path)
    registry.create_fleet("lost", actor="ann")
    head = registry.head()
    put_back(path, copy)
    opened(path).create_fleet("after", actor="ann")
    with pytest.raises(StorageError, match="replaced a moment ago"):
        registry.fleets()
    assert [fleet.name for fleet in until_read(registry)] == ["after", "before"]
    registry.create_fleet("more", actor="ann")
    assert "more" in [fleet.name for fleet in opened(path).fleets()]
    assert opened(path).verify_audit().intact
    other = opened(path)
    assert other.head().number == head.number + 1
    assert {entry.object for entry in other.audit()} == {"before", "after", "more"}


def test_the_same_number_of_other_changes_is_another_head(path):
    registry = opened(path)
    copy = backup(path)
    registry.create_fleet("one", actor="ann")
    before = registry.head()
    put_back(path, copy)
    opened(path).create_fleet("two", actor="ann")
    until_read(registry)
    assert registry.head().number == before.number
    assert registry.head() != before


def test_a_file_that_was_taken_away_is_missed_and_not_made_anew(path, monkeypatch):
    monkeypatch.setattr(sqlite_engine, "SETTLE_S", 0.0)
    registry = opened(path)
    registry.create_fleet("pumps", actor="ann")
    aside = path.with_name("aside.db")
    shutil.copy(backup(path), aside)
    for file in list(path.parent.glob(f"{path.name}*")):
        file.unlink()
    with pytest.raises(StorageError, match="is not there"):
        registry.create_fleet("lost", actor="ann")
    with pytest.raises(StorageError, match="is not there"):
        registry.fleets()
    with pytest.raises(StorageError, match="is not there"):
        opened(path, must_exist=True).fleets()
    assert not path.exists()
    aside.replace(path)
    assert [fleet.name for fleet in registry.fleets()] == ["pumps"]


def test_a_file_that_goes_while_it_is_being_opened_is_not_made_anew(path, monkeypatch):
    opened(path).create_fleet("pumps", actor="ann")
    aside, connect = path.with_name("aside.db"), sqlite_engine._connect

    def too_late(*given):
        path.rename(aside)
        return connect(*given)

    monkeypatch.setattr(sqlite_engine, "_connect", too_late)
    with pytest.raises(StorageError):
        opened(path).fleets()
    assert not path.exists()
    monkeypatch.undo()
    aside.rename(path)
    assert [fleet.name for fleet in opened(path).fleets()] == ["pumps"]


def until_seen(seen, names, seconds=20):
    deadline = time.monotonic() + seconds
    while names not in seen:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_threads_that_read_meanwhile_see_the_one_or_the_other(path, monkeypatch):
    now_s = time.monotonic()  # moved by hand: nothing settles before both files of the other one are gone
    monkeypatch.setattr(sqlite_engine, "time", SimpleNamespace(monotonic=lambda: now_s))
    registry = opened(path)
    copy = backup(path)
    registry.create_fleet("old", actor="ann")
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            try:
                seen.add(tuple(fleet.name for fleet in registry.fleets()))
            except StorageError as error:
                assert "a moment ago" in str(error)  # noqa: PT017

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    until_seen(seen, ("old",))
    put_back(path, copy)
    with pytest.raises(StorageError, match="a moment ago"):
        registry.fleets()
    now_s += 2 * sqlite_engine.SETTLE_S
    until_seen(seen, ())
    time.sleep(0.2)  # for somebody to see the old one again
    stop.set()
    for thread in threads:
        thread.join()
    assert seen == {("old",), ()}
    registry.create_fleet("new", actor="ann")
    assert [fleet.name for fleet in opened(path).fleets()] == ["new"]
