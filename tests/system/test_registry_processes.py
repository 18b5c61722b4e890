"""The registry under several processes at once, under SIGKILL, and on a full disk."""

import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from shoal.errors import NotFound
from shoal.registry import Lineage, Registry
from shoal.registry.tables import models, snapshots
from shoal.storage.sql import Database
from tests.databases import Databases, wait_for_the_killed

PREAMBLE = """
import os, sys, time
from pathlib import Path
from shoal.errors import Conflict, StorageError
from shoal.registry import Lineage, ModelRecord, Registry
from shoal.storage.sql import Database

def database():
    return Database(os.environ["SHOAL_DATABASE_URL"])

def together():
    print("ready", flush=True)
    while not Path(sys.argv[1], "go").exists():
        time.sleep(0.001)

def models(count, pause_after=None):
    for number in range(count):
        if number == pause_after:
            print("half-way", flush=True)
            time.sleep(60)
        yield ModelRecord(key_text=f"device={number}", level=("device",), family="affine", metrics={"mae": 0.5})

def register(count, pause_after=None):
    return Registry(database()).add_snapshot(
        "flights", digest="d", models=models(count, pause_after), model_count=count, lineage=Lineage(), actor="ann"
    )
"""


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def url(databases: Databases) -> str:
    return databases.migrated()


@pytest.fixture
def start(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a process that works on the same database."""
    monkeypatch.setenv("SHOAL_DATABASE_URL", url)

    def start_process(body: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PREAMBLE + body, str(tmp_path), *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]

    return start_process


def run_together(home: Path, workers: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Let the workers go at one moment, and give back what they printed."""
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    (home / "go").touch()
    printed = [worker.communicate(timeout=120) for worker in workers]
    for worker, (_, errors) in zip(workers, printed, strict=True):
        assert worker.returncode == 0, errors
    return [out for out, _ in printed]


@pytest.fixture
def registry(url: str) -> Registry:
    registry = Registry(Database(url))
    registry.create_fleet("flights", actor="ann")
    return registry


def add_snapshots(registry: Registry, count: int) -> None:
    for _ in range(count):
        registry.add_snapshot("flights", digest="d", models=(), model_count=0, lineage=Lineage(), actor="ann")


def test_processes_open_a_new_database_at_once(tmp_path, start, databases, monkeypatch):
    url = databases.empty()
    monkeypatch.setenv("SHOAL_DATABASE_URL", url)
    body = """
together()
mine = database()
mine.migrate()
Registry(mine).create_fleet(f"fleet-{sys.argv[2]}", actor="ann")
"""
    run_together(tmp_path, [start(body, number) for number in range(6)])
    registry = Registry(Database(url))
    assert [fleet.name for fleet in registry.fleets()] == [f"fleet-{number}" for number in range(6)]
    assert registry.verify_audit().intact


def test_eight_processes_promote_at_once(tmp_path, start, registry):
    add_snapshots(registry, 8)
    body = """
together()
mine = Registry(database())
for turn in range(15):
    mine.promote("flights", int(sys.argv[2]), actor=sys.argv[2], reason=str(turn))
"""
    run_together(tmp_path, [start(body, version) for version in range(1, 9)])
    history = registry.alias_history("flights", "champion")[::-1]
    assert [change.number for change in history] == list(range(1, 8 * 15 + 1))
    assert [change.before for change in history[1:]] == [change.after for change in history[:-1]]
    assert sorted((change.actor, int(change.reason)) for change in history) == sorted(
        (str(version), turn) for version in range(1, 9) for turn in range(15)
    )
    assert registry.resolve("flights").version == history[-1].after
    assert len(registry.audit(object="flights@champion", limit=1000)) == len(history)
    assert registry.verify_audit().intact


def test_of_several_that_decide_on_the_same_news_one_wins(tmp_path, start, registry):
    """Each turn, every process tries to move the alias one version on from where it saw it."""
    add_snapshots(registry, 31)
    registry.promote("flights", 1, actor="ann")
    body = """
together()
mine = Registry(database())
won = 0
while (now := mine.resolve("flights").version) < 31:
    try:
        mine.promote("flights", now + 1, actor="w", expected=now)
        won += 1
    except Conflict:
        pass
print(won)
"""
    won = [int(out) for out in run_together(tmp_path, [start(body) for _ in range(4)])]
    assert sum(won) == 30
    assert [change.after for change in registry.alias_history("flights")] == list(range(31, 0, -1))


def test_promotions_and_rollbacks_at_once_end_where_the_history_says(tmp_path, start, registry):
    add_snapshots(registry, 4)
    registry.promote("flights", 1, actor="ann")
    body = """
together()
mine = Registry(database())
for turn in range(10):
    mine.promote("flights", 1 + (int(sys.argv[2]) + turn) % 4, actor="w")
    try:
        mine.rollback("flights", actor="w")
    except Exception as error:
        assert "named nothing before" in str(error), error
"""
    run_together(tmp_path, [start(body, number) for number in range(4)])
    stack: list[int] = []
    history = registry.alias_history("flights")[::-1]
    for change in history:
        assert change.before == (stack[-1] if stack else None)
        if change.move == "rollback":
            stack.pop()
        elif not stack or stack[-1] != change.after:
            stack.append(change.after)
        assert change.after == stack[-1]
    assert len(history) >= 41
    assert registry.resolve("flights").version == stack[-1]


@pytest.mark.parametrize("killed_after", [1, 9_999, 15_000])
def test_a_killed_registration_leaves_nothing(start, registry, killed_after):
    worker = start("register(20_000, pause_after=int(sys.argv[2]))", killed_after)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "half-way\n"
    worker.kill()
    worker.communicate()
    assert registry.snapshots("flights") == []
    assert registry.fleet("flights").latest is None
    with pytest.raises(NotFound):
        registry.model_history("flights", "device=0")
    assert [entry.action for entry in registry.audit()] == ["fleet.create"]
    add_snapshots(registry, 1)
    assert registry.resolve("flights:1").version == 1
    assert registry.verify_audit().intact


def test_registrations_killed_at_any_moment_are_whole_or_not_there(start, url, registry):
    count = 10_000
    body = f"""
print("ready", flush=True)
while True:
    register({count})
"""
    dice = random.Random(7)
    for _ in range(4):
        worker = start(body)
        assert worker.stdout is not None
        worker.stdout.readline()
        time.sleep(dice.uniform(0.05, 0.4))
        worker.kill()
        worker.communicate()
    wait_for_the_killed(url)
    with Database(url).read() as connection:
        rows = connection.execute(
            sa.select(snapshots.c.version, snapshots.c.new_models, sa.func.count(models.c.key_text))
            .join(models, isouter=True)
            .group_by(snapshots.c.version, snapshots.c.new_models)
            .order_by(snapshots.c.version)
        ).all()
    assert [tuple(row) for row in rows] == [(version, count, count) for version in range(1, len(rows) + 1)]
    assert registry.fleet("flights").latest == (len(rows) or None)
    assert len(registry.audit(limit=1000)) == 1 + len(rows)
    assert registry.verify_audit().intact


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
def test_a_full_disk_stops_a_registration_without_a_trace(start, url, registry):
    add_snapshots(registry, 1)
    limit = 400_000

    def smaller_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    body = """
try:
    register(20_000)
except StorageError as error:
    print(error)
"""
    worker = start(body, preexec_fn=smaller_files)
    out, errors = worker.communicate(timeout=60)
    assert worker.returncode == 0, errors
    assert url.removeprefix("sqlite:///") in out
    assert "space" in out
    assert [snapshot.version for snapshot in registry.snapshots("flights")] == [1]
    with pytest.raises(NotFound):
        registry.model_history("flights", "device=0")
    add_snapshots(registry, 1)
    assert registry.fleet("flights").latest == 2
    assert registry.verify_audit().intact
