"""A PostgreSQL server that stops, crashes, is full, slow or read-only: errors are ours, and it goes on by itself."""

import asyncio
import datetime as dt
import math
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import psycopg
import pytest
import sqlalchemy as sa

from shoal.errors import InvalidInput, StorageError, Unavailable
from shoal.jobs.states import RunState
from shoal.ledger import Ledger, ShardPlan
from shoal.registry import Lineage, Registry, ServerRecord
from shoal.registry.tables import audit_head
from shoal.serving.messages import Datatype, InferenceRequest, RequestContext, Tensor
from shoal.storage import postgresql_engine, sql
from shoal.storage.sql import Database
from tests.databases import PostgresqlServer
from tests.system.async_world import furnish

MOST_CONNECTIONS = 14


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    """A server that these tests may stop; it keeps what it has committed when it crashes."""
    server = PostgresqlServer(synchronous_commit="on", max_connections=str(MOST_CONNECTIONS))
    yield server
    server.remove()


@pytest.fixture
def url(server: PostgresqlServer) -> Iterator[str]:
    name = server.take()
    yield server.url(name)
    server.give_back(name)


@pytest.fixture
def registry(url: str) -> Registry:
    registry = Registry(Database(url))
    registry.create_fleet("flights", actor="ann")
    for _ in range(8):
        registry.add_snapshot("flights", digest="d", models=(), model_count=0, lineage=Lineage(), actor="ann")
    return registry


def with_options(url: str, options: str) -> str:
    return f"{url}&options={quote(options)}"


def fill(url: str) -> list[psycopg.Connection]:
    """Take all connections but the one that somebody has; of those that were closed it is noticed a little later."""
    taken: list[psycopg.Connection] = []
    deadline = time.monotonic() + 60
    while len(taken) < MOST_CONNECTIONS - 1:
        try:
            taken.append(psycopg.connect(url))
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, len(taken)
            time.sleep(0.02)
    return taken


@pytest.mark.parametrize("idle_s", [0.0, math.inf])
def test_a_restart_between_two_calls_is_not_noticed(server, registry, monkeypatch, idle_s):
    monkeypatch.setattr(postgresql_engine, "_IDLE_S", idle_s)
    before = registry.head()
    for stop in (signal.SIGINT, signal.SIGQUIT):
        server.stop(stop)
        server.start()
        assert registry.head() == before


def test_what_is_cut_off_half_way_is_an_error_and_changes_nothing(server, url, registry):
    database = Database(url)

    def change() -> None:
        with database.write() as connection:
            connection.execute(audit_head.update().values(number=99))
            server.stop()
            connection.execute(audit_head.update().values(number=100))

    with pytest.raises(StorageError, match="check that the database can be reached"):
        change()
    server.start()
    with database.write() as connection:
        assert connection.execute(sa.select(audit_head.c.number)).scalar_one() == registry.head().number == 9


def test_a_commit_that_is_cut_off_is_an_error(server, url):
    database = Database(url)

    def change() -> None:
        with database.write() as connection:
            connection.execute(audit_head.update().values(number=99))
            server.stop(signal.SIGQUIT)

    with pytest.raises(StorageError):
        change()
    server.start()
    assert Registry(database).head().number == 0


def test_while_it_is_away_calls_wait_a_little_and_then_fail(server, url, registry, monkeypatch):
    monkeypatch.setattr(sql, "RECONNECT_S", 0.2)
    server.stop()
    try:
        with pytest.raises(StorageError, match="check that the database can be reached"):
            registry.head()
        with pytest.raises(StorageError, match="check that the database can be reached") as caught:
            Database(url.replace("shoal@", "shoal:geheim@")).migrate()
        assert "geheim" not in str(caught.value)
        monkeypatch.setattr(sql, "RECONNECT_S", 30.0)
        with ThreadPoolExecutor(1) as waiting:
            asked = waiting.submit(registry.head)
            time.sleep(0.2)
            assert not asked.done()
            server.start()
            assert asked.result(30).number == 9
    finally:
        if server.is_stopped:
            server.start()


def _promote(url: str, version: int, turns: int) -> None:
    registry = Registry(Database(url))
    done = 0
    while done < turns:
        try:
            registry.promote("flights", version, actor=str(version), reason=str(done))
        except StorageError:
            # Whether a commit that was cut off was made, only the history knows.
            done = len([change for change in _history(registry) if change == str(version)])
        else:
            done += 1


def _history(registry: Registry) -> list[str]:
    while True:
        try:
            return [change.actor for change in registry.alias_history("flights")]
        except StorageError:
            time.sleep(0.01)


def test_promotions_of_several_processes_survive_crashes_of_the_server(server, url, registry):
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=_promote, args=(url, version, 40)) for version in (1, 2, 3)]
    for worker in workers:
        worker.start()
    for goal in (20, 60):
        while len(_history(registry)) < goal:
            time.sleep(0.01)
        server.stop(signal.SIGQUIT)
        server.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
        worker.close()
    history = registry.alias_history("flights")[::-1]
    assert [change.number for change in history] == list(range(1, 121))
    assert [change.before for change in history[1:]] == [change.after for change in history[:-1]]
    assert registry.verify_audit().intact


def test_when_no_connection_is_left_calls_wait_for_one(url, registry):
    registry.head()
    newcomer = Database(url, patience_s=0.2)
    taken = fill(url)
    assert taken
    with pytest.raises(StorageError, match=r"too many|connection slots"):
        Registry(newcomer).head()
    assert registry.head().number == 9, "who has a connection keeps it"

    def let_go() -> None:
        for connection in taken:
            connection.close()

    later = threading.Timer(0.3, let_go)
    later.start()
    assert Registry(Database(url)).head().number == 9
    later.join()


def take_all(url: str) -> list[psycopg.Connection]:
    """Take all connections, those that others have among them."""
    mine = [psycopg.connect(url, autocommit=True)]
    while len(mine) < MOST_CONNECTIONS:
        pids = [one.info.backend_pid for one in mine]
        mine[0].execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE NOT pid = ANY(%s)", [pids])
        try:
            mine.append(psycopg.connect(url, autocommit=True))
        except psycopg.OperationalError:
            time.sleep(0.01)
    return mine


def test_when_no_connection_is_left_durable_requests_are_refused_at_once(server, url, tmp_path):
    tensors = (
        Tensor(name="device", datatype=Datatype.BYTES, shape=(1,), data=["d1"]),
        *[Tensor(name=name, datatype=Datatype.FP64, shape=(1,), data=[1.0]) for name in "ab"],
    )

    async def main() -> None:
        plane = workspace.data_plane()
        await plane.start()

        async def ask(name: str) -> None:
            deadline_s = time.monotonic() + 30
            context = RequestContext(request_id=name, principal="ada", deadline_s=deadline_s)
            await plane.infer(InferenceRequest(model="pumps", inputs=tensors), context)

        await ask("before")
        taken = await asyncio.to_thread(take_all, url)
        with pytest.raises(Unavailable, match="registry does not answer"):
            await ask("while it becomes known")
        with pytest.raises(Unavailable, match=r"registry does not answer.* nothing was done"):
            await ask("while it is known")
        for connection in taken:
            connection.close()
        while plane.contact.problem:
            await asyncio.sleep(0.01)
        await ask("after")
        await plane.drain(30)

    with furnish(tmp_path / "home", url) as workspace:
        workspace.set_serving("pumps", {"store": "durable"})
        asyncio.run(main())
        names = ("before", "while it is known", "after")
        assert [len(workspace.predictions.of_request(name)) for name in names] == [1, 0, 1]


def test_a_process_takes_few_connections_and_gives_most_of_them_back(url):
    database = Database(url)
    together = threading.Barrier(8)

    def ask() -> None:
        with database.read() as connection:
            connection.execute(sa.select(audit_head))
            together.wait()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mine = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    deadline = time.monotonic() + 30
    while True:
        with database.read() as connection:
            count = connection.execute(mine).scalar_one()
        if count == 4:
            return
        assert time.monotonic() < deadline, count  # the server notices a little later that they are closed
        time.sleep(0.01)


@pytest.mark.parametrize(("option", "words"), [("zz=1", "zz"), ("connect_timeout=abc", "connect_timeout")])
def test_an_option_that_there_is_not_is_told(url, option, words):
    with pytest.raises(InvalidInput, match=f"{words}.*SHOAL_DATABASE_URL"):
        Registry(Database(f"{url}{'&' if '?' in url else '?'}{option}")).head()


def test_a_statement_that_takes_too_long_is_given_up(url):
    database = Database(with_options(url, "-c statement_timeout=50"))
    with pytest.raises(StorageError, match="took too long"), database.read() as connection:
        connection.execute(sa.select(sa.func.pg_sleep(30)))
    while True:
        try:
            assert Registry(database).head().number == 0
        except StorageError as error:
            if "took too long" not in str(error):  # which is true where the machine is busy
                raise
        else:
            return


def test_a_server_that_may_only_be_read_is_read(url, registry):
    standby = Registry(Database(with_options(url, "-c default_transaction_read_only=on")))
    Database(with_options(url, "-c default_transaction_read_only=on")).migrate()
    assert standby.resolve("flights:3").version == 3
    with pytest.raises(StorageError, match="may only be read"):
        standby.promote("flights", 1, actor="ann")
    with pytest.raises(StorageError, match="may only be read"):
        standby.beat(ServerRecord(id="s", url="http://s", started_at=dt.datetime.now(dt.UTC)))


def test_a_user_who_may_not_is_told_so(server, url, registry):
    server.execute("DROP ROLE IF EXISTS guest")
    server.execute("CREATE ROLE guest LOGIN")
    guest = Registry(Database(url.replace("shoal@", "guest@")))
    with pytest.raises(StorageError, match="grant it"):
        guest.head()


def test_a_worker_that_stops_in_a_transaction_loses_it(url, registry, monkeypatch):
    monkeypatch.setattr("shoal.storage.postgresql_engine._IDLE_IN_TRANSACTION_S", 0.2)
    sleeper = Database(url)
    locked, promoted = threading.Event(), threading.Event()
    lost: list[StorageError] = []

    def stop_half_way() -> None:
        while not locked.is_set():  # it may be so slow that it has stopped before
            try:
                with sleeper.write() as connection:
                    connection.execute(sa.select(audit_head).with_for_update())
                    locked.set()
                    promoted.wait(60)
                    connection.execute(sa.select(audit_head))
            except StorageError as error:
                if locked.is_set():
                    lost.append(error)

    thread = threading.Thread(target=stop_half_way)
    thread.start()
    locked.wait()
    registry.promote("flights", 1, actor="ann")  # which waits for the lock
    promoted.set()
    thread.join()
    assert len(lost) == 1


def test_leases_go_by_the_clock_of_the_server(url, monkeypatch):
    wrong = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    monkeypatch.setattr(sql, "utc_now", lambda: wrong)
    ledger = Ledger(Database(url))
    plans = [ShardPlan(number=number, source={}) for number in range(2)]
    run = ledger.create_run(kind="score", fleet="f", version=1, spec={}, inputs=(), shards=plans, actor="ann")
    ledger.transition(run.id, RunState.RUNNING)
    (claim,) = ledger.claim(run.id, owner="a", lease_s=60)
    left = claim.lease_until - dt.datetime.now(dt.UTC)
    assert dt.timedelta(seconds=50) < left <= dt.timedelta(seconds=61)


def test_claims_under_way_are_skipped_not_waited_for(url):
    database = Database(url, patience_s=0.5)
    ledger = Ledger(database)
    plans = [ShardPlan(number=number, source={}) for number in range(4)]
    run = ledger.create_run(kind="score", fleet="f", version=1, spec={}, inputs=(), shards=plans, actor="ann")
    ledger.transition(run.id, RunState.RUNNING)
    with database.write() as connection:
        connection.execute(sa.text("SELECT * FROM shards WHERE number < 2 FOR UPDATE"))
        assert [claim.number for claim in ledger.claim(run.id, owner="b", lease_s=60, limit=9)] == [2, 3]
    assert [claim.number for claim in ledger.claim(run.id, owner="b", lease_s=60, limit=9)] == [0, 1]


def test_urls_are_taken_as_users_write_them(server, url):
    for written in (url, url.replace("postgresql:", "postgres:"), url.replace("postgresql:", "postgresql+psycopg:")):
        assert Registry(Database(written)).head().number == 0
    with pytest.raises(InvalidInput, match="psycopg"):
        Database(url.replace("postgresql:", "postgresql+psycopg2:"))
    with pytest.raises(StorageError, match="does not exist"):
        Database(server.url("nowhere")).migrate()
