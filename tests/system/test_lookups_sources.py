"""Every kind of source, for real: the same features from each, and what a slow, dead or mad one costs."""

import asyncio
import contextlib
import datetime as dt
import json
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import polars as pl
import psutil
import psycopg
import pytest

from shoal.errors import InvalidInput, InvalidSpec
from shoal.requests.loading import load_lookup
from shoal.requests.lookups import Completed, Lookup
from shoal.requests.opening import open_lookup
from shoal.requests.readers import open_reader
from shoal.requests.sources import load_source
from shoal.requests.spec import FleetSchema
from shoal.storage.lookup_reader import Wanted, best
from shoal.types import Feature, FeatureKind, KeyColumn, KeyType, Task
from tests.databases import PostgresqlServer
from tests.lookup_servers import HttpServer, RedisServer

SCHEMA = FleetSchema(
    keys=(KeyColumn(name="site", type=KeyType.STRING), KeyColumn(name="unit", type=KeyType.INTEGER)),
    features=(Feature(name="age", kind=FeatureKind.NUMERIC), Feature(name="kind", kind=FeatureKind.CATEGORY)),
    task=Task.REGRESSION,
)
LOOKUP: Mapping[str, object] = {
    "source": "pumps", "keys": {"unit": "id"}, "features": {"age": "age", "kind": "kind"}, "timeout_ms": 30_000,
}  # fmt: skip
PUMPS = [(1, 3.5, "x"), (2, None, "it's"), (3, 7.0, None)]
ASKED = [(2,), (9,), (1,), (3,), (1,)]
EXPECTED = {"age": [None, None, 3.5, 7.0, 3.5], "kind": ["it's", None, "x", None, "x"]}

SLOW = "SELECT id, age, kind FROM pumps, (SELECT pg_sleep(30 + 0 * count(*)) FROM pumps) AS slow"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT%pg_sleep(' || '30%' AND state = 'active'"


class Postgres(PostgresqlServer):
    """The server's usual database is the one that is looked up in."""

    @property
    def home(self) -> str:
        return self.url("postgres")

    def connect(self) -> "psycopg.Connection":
        return psycopg.connect(self.home)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


async def failure(lookup: Lookup) -> str:
    """All that is known of why a row is not scored; its reason names no files."""
    done = await lookup.complete([(1,)])
    assert "/" not in done.reasons[0]
    return str(done.failure)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[HttpServer]:
    rows = {str(number): {"age": age, "kind": kind} for number, age, kind in PUMPS}
    with HttpServer(rows, tmp_path) as server:
        yield server


@contextlib.asynccontextmanager
async def opened(source: object, folder: Path, **changes: object) -> AsyncIterator[Lookup]:
    spec = load_lookup({**LOOKUP, **changes})
    lookup = open_lookup(spec, SCHEMA, lambda _: load_source(source), cache=folder / "cache")  # type: ignore[arg-type]
    try:
        yield lookup
    finally:
        await lookup.close()


def completed(
    source: object, folder: Path, asked: list[tuple[object, ...]] = ASKED, **changes: object
) -> dict[str, object]:
    async def go() -> dict[str, object]:
        async with opened(source, folder, on_failure="invalid", **changes) as lookup:
            done = await lookup.complete(asked)
            assert done.reasons == {}
            return dict(done.columns)

    return asyncio.run(go())


def sqlite_pumps(folder: Path) -> str:
    with contextlib.closing(sqlite3.connect(folder / "pumps.db")) as connection, connection:
        connection.execute("CREATE TABLE pumps (id INTEGER PRIMARY KEY, age REAL, kind TEXT)")
        connection.executemany("INSERT INTO pumps VALUES (?, ?, ?)", PUMPS)
    return f"sqlite:///{folder / 'pumps.db'}"


def postgres_pumps(server: Postgres) -> str:
    with server.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS pumps")
        connection.execute("CREATE TABLE pumps (id integer PRIMARY KEY, age numeric, kind text)")
        connection.cursor().executemany("INSERT INTO pumps VALUES (%s, %s, %s)", PUMPS)
    return server.home


def parquet_pumps(folder: Path) -> Path:
    frame = pl.DataFrame(PUMPS, schema={"id": pl.Int32, "age": pl.Float32, "kind": pl.Categorical}, orient="row")
    frame.write_parquet(folder / "pumps.parquet")
    return folder / "pumps.parquet"


def test_sqlite(tmp_path: Path) -> None:
    url = sqlite_pumps(tmp_path)
    assert completed({"kind": "sql", "url": url, "table": "pumps"}, tmp_path) == EXPECTED
    query = "SELECT id, age, kind FROM pumps WHERE id < 100"
    assert completed({"kind": "sql", "url": url, "query": query}, tmp_path) == EXPECTED


def test_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres_pumps(postgres)
    assert completed({"kind": "sql", "url": url, "table": "public.pumps"}, tmp_path) == EXPECTED
    query = "SELECT id, age, kind FROM pumps WHERE id < 100"
    assert completed({"kind": "sql", "url": url, "query": query}, tmp_path) == EXPECTED


def test_many_keys_of_several_columns_in_few_statements(tmp_path: Path, postgres: Postgres) -> None:
    rows = [(f"s{i % 7}", i, float(i), "k") for i in range(1500)]
    with contextlib.closing(sqlite3.connect(tmp_path / "many.db")) as lite, lite:
        lite.execute("CREATE TABLE many (site TEXT, id INTEGER, age REAL, kind TEXT)")
        lite.executemany("INSERT INTO many VALUES (?, ?, ?, ?)", rows)
    with postgres.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS many")
        connection.execute("CREATE TABLE many (site text, id bigint, age double precision, kind text)")
        connection.cursor().executemany("INSERT INTO many VALUES (%s, %s, %s, %s)", rows)
    asked: list[tuple[object, ...]] = [(f"s{i % 7}", i + i % 2 * 5000) for i in range(1500)]
    for url in (f"sqlite:///{tmp_path / 'many.db'}", postgres.home):
        source = {"kind": "sql", "url": url, "table": "many"}
        found = completed(source, tmp_path, asked, keys={"site": "site", "unit": "id"})
        assert found["age"] == [None if i % 2 else float(i) for i in range(1500)]


@pytest.mark.parametrize("form", ["hash", "json"])
def test_redis(tmp_path: Path, redis_server: RedisServer, form: str) -> None:
    with redis_server.client() as client:
        client.flushall()
        for number, age, kind in PUMPS:
            fields = {name: value for name, value in (("age", age), ("kind", kind)) if value is not None}
            if form == "hash":
                client.hset(f"pump:{number}", mapping=fields)
            else:
                client.set(f"pump:{number}", json.dumps(fields))
    source = {"kind": "redis", "url": redis_server.url, "key": "pump:{id}", "format": form}
    assert completed(source, tmp_path) == EXPECTED


def test_redis_that_holds_something_else_costs_only_that_key(tmp_path: Path, redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.flushall()
        client.hset("pump:1", mapping={"age": 3})
        client.set("pump:2", "not a hash")
        client.set("json:1", '{"age": 3}')
        client.set("json:2", "{")
        client.set("json:3", "[1]")

    async def go(source: object) -> None:
        async with opened(source, tmp_path, on_failure="invalid") as lookup:
            done = await lookup.complete([(1,), (2,), (3,)])
            assert done.columns["age"] == [3.0, None, None]
            assert 2 > min(done.reasons) > 0

    asyncio.run(go({"kind": "redis", "url": redis_server.url, "key": "pump:{id}"}))
    asyncio.run(go({"kind": "redis", "url": redis_server.url, "key": "json:{id}", "format": "json"}))


def test_keys_with_colons_do_not_meet_in_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.flushall()
        client.hset("p:a%3A1:2", mapping={"age": 1})
    source = {"kind": "redis", "url": redis_server.url, "key": "p:{site}:{id}"}
    keys = {"site": "site", "unit": "id"}
    assert completed(source, tmp_path, [("a:1", 2), ("a", 2), ("a%3A1", 2)], keys=keys)["age"] == [1.0, None, None]


def test_http_per_key_and_for_many_at_once(
    tmp_path: Path, service: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUMPS_TOKEN", "s3cret")
    hosts = [f"127.0.0.1:{service.port}"]
    headers = {"Authorization": "Bearer ${PUMPS_TOKEN}"}
    source = {"kind": "http", "url": f"{service.url}/pumps/{{id}}", "hosts": hosts, "headers": headers}
    assert completed(source, tmp_path) == EXPECTED
    assert service.requests == 4
    assert completed({**source, "url": f"{service.url}/pumps"}, tmp_path) == EXPECTED
    log = (tmp_path / "log").read_text().splitlines()
    assert len(log) == 5
    assert all(line.endswith("Bearer s3cret") for line in log)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("status 500", "answers 500"),
        ("status 204", "answers 204"),
        ("text not json", "no JSON"),
        ("text [1]", "should be a JSON object"),
        ("huge 5000", "more than 2000 bytes"),
        ("zip", "compresses its answer"),
        ("hangup", "does not answer"),
        ("redirect http://localhost:{port}/pumps/1", "sends elsewhere, which is not allowed"),
        ("redirect file:///etc/passwd", "sends elsewhere"),
        ("redirect http://[::bad/", "does not answer"),
        ("redirect /pumps/again", "redirects again and again"),
    ],
)  # fmt: skip
def test_http_that_misbehaves_costs_no_more_than_its_rows(
    tmp_path: Path, service: HttpServer, behaviour: str, words: str
) -> None:
    service.behave(behaviour.replace("{port}", str(service.port)))
    source = {
        "kind": "http", "url": f"{service.url}/pumps/{{id}}", "hosts": [f"127.0.0.1:{service.port}"], "max_bytes": 2000,
    }  # fmt: skip

    async def go() -> None:
        async with opened(source, tmp_path, on_failure="invalid") as lookup:
            done = await lookup.complete([(1,)])
            assert words in done.reasons[0]
            service.behave("well")
            assert (await lookup.complete([(1,)])).columns["age"] == [3.5]

    asyncio.run(go())


def test_http_keys_never_leave_their_place(tmp_path: Path, service: HttpServer) -> None:
    source = {"kind": "http", "url": f"{service.url}/pumps/{{site}}", "hosts": [f"127.0.0.1:{service.port}"]}
    asked: list[tuple[object, ...]] = [("..",), ("../../etc",), ("1?x=2",), ("1#",), ("a/b",), ("",), ("%2e",)]
    found = completed(source, tmp_path, asked, keys={"site": "site"})
    assert found["age"] == [None] * len(asked)
    paths = {line.split()[1] for line in (tmp_path / "log").read_text().splitlines()}
    assert paths == {"/pumps/..%2F..%2Fetc", "/pumps/1%3Fx%3D2", "/pumps/1%23", "/pumps/a%2Fb", "/pumps/%252e"}


def test_parquet_is_noticed_when_another_takes_its_place(tmp_path: Path) -> None:
    path = parquet_pumps(tmp_path)
    source = {"kind": "parquet", "path": str(path)}

    async def go() -> None:
        async with opened(source, tmp_path) as lookup, opened(source, tmp_path) as other:
            for one in (lookup, other):
                assert dict((await one.complete(ASKED)).columns) == EXPECTED
            assert len(list((tmp_path / "cache").glob("*.rows.arrow"))) == 1
            pl.DataFrame({"id": [1], "age": [99.0], "kind": ["new"]}).write_parquet(tmp_path / "next.parquet")
            (tmp_path / "next.parquet").replace(path)
            while (done := await lookup.complete([(1,), (2,)])).columns["age"] != [99.0, None]:
                assert done.columns["age"] == [3.5, None]
                await asyncio.sleep(0.02)
            path.unlink()
            await asyncio.sleep(0.3)
            assert (await lookup.complete([(1,)])).columns["age"] == [99.0]

    asyncio.run(go())


def test_parquet_that_is_not_there_or_none_is_a_failure_that_passes(tmp_path: Path) -> None:
    source = {"kind": "parquet", "path": str(tmp_path / "pumps.parquet")}

    async def go() -> None:
        async with opened(source, tmp_path, on_failure="invalid") as lookup:
            assert "no such file" in await failure(lookup)
            (tmp_path / "pumps.parquet").write_bytes(b"PAR1")
            await answered(lookup, lambda done: "no Parquet file with the columns" in str(done.failure))
            parquet_pumps(tmp_path)
            await answered(lookup, lambda done: done.columns["age"] == [3.5])

    asyncio.run(go())


async def answered(lookup: Lookup, wanted: Callable[[Completed], bool]) -> None:
    """Ask until the answer is the one that is wanted; what changed is noticed a moment later."""
    until_s = time.monotonic() + 60
    while not wanted(await lookup.complete([(1,)])):
        assert time.monotonic() < until_s
        await asyncio.sleep(0.02)


def history_rows() -> list[tuple[int, dt.datetime, float | None]]:
    now = dt.datetime.now(dt.UTC).replace(microsecond=123456)
    hours = [-50, -20, -3, -3, 2, 40]
    return [
        (unit, now + dt.timedelta(hours=hour), None if (unit + i) % 5 == 0 else float(unit * 10 + i))
        for unit in range(8) for i, hour in enumerate(hours) if (unit * 7 + i) % 4
    ]  # fmt: skip


@pytest.mark.parametrize("writing", ["zoned", "naive", "text", "seconds", "parquet", "date"])
def test_the_newest_row_that_is_not_in_the_future_counts(tmp_path: Path, postgres: Postgres, writing: str) -> None:
    rows = history_rows()
    if writing == "date":
        rows = [(unit, time.replace(hour=0, minute=0, second=0, microsecond=0), age) for unit, time, age in rows]
    now = dt.datetime.now(dt.UTC)
    expected = []
    for unit in range(9):
        past = [(age, time) for one, time, age in rows if one == unit and time <= now]
        newest = [row for row in past if row[1] == max(time for _, time in past)]
        expected.append(best(newest, timed=True)[0] if newest else None)
    source: dict[str, object]
    if writing == "parquet":
        frame = pl.DataFrame(
            rows, schema={"id": pl.Int64, "since": pl.Datetime("ns", "UTC"), "age": pl.Float64}, orient="row"
        )
        frame.sample(fraction=1, shuffle=True, seed=1).write_parquet(tmp_path / "history.parquet")
        source = {"kind": "parquet", "path": str(tmp_path / "history.parquet")}
    elif writing in ("text", "seconds"):
        with contextlib.closing(sqlite3.connect(tmp_path / "history.db")) as lite, lite:
            lite.execute("CREATE TABLE history (id INTEGER, since, age REAL)")
            values = [
                (unit, time.strftime("%Y-%m-%d %H:%M:%S.%f") if writing == "text" else time.timestamp(), age)
                for unit, time, age in rows
            ]
            lite.executemany("INSERT INTO history VALUES (?, ?, ?)", values)
        source = {"kind": "sql", "url": f"sqlite:///{tmp_path / 'history.db'}", "table": "history"}
    else:
        kind = {"zoned": "timestamptz", "naive": "timestamp", "date": "date"}[writing]
        with postgres.connect() as connection:
            connection.execute("DROP TABLE IF EXISTS history")
            connection.execute(f"CREATE TABLE history (id integer, since {kind}, age double precision)")
            plain = [(u, t if writing == "zoned" else t.replace(tzinfo=None), a) for u, t, a in rows]
            connection.cursor().executemany("INSERT INTO history VALUES (%s, %s, %s)", plain)
        source = {"kind": "sql", "url": postgres.home, "table": "history"}
    asked: list[tuple[object, ...]] = [(unit,) for unit in range(9)]
    assert completed(source, tmp_path, asked, features=["age"], as_of="since")["age"] == expected
    reader = open_reader(
        load_source(source), Wanted(keys={"id": KeyType.INTEGER}, values=("age",), as_of="since"),
        cache=tmp_path, timeout_s=5,
    )  # fmt: skip
    assert reader.history().height == len(rows)
    asyncio.run(reader.close())


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_source_that_has_no_row_yet_knows_no_key_and_has_it_with_the_first(
    tmp_path: Path, postgres: Postgres, database: str
) -> None:
    url = f"sqlite:///{tmp_path / 'none.db'}" if database == "sqlite" else postgres.home
    kind = "timestamptz" if database == "postgresql" else "text"

    def execute(statement: str) -> None:
        if database == "postgresql":
            with postgres.connect() as connection:
                connection.execute(statement)
        else:
            with contextlib.closing(sqlite3.connect(tmp_path / "none.db")) as lite, lite:
                lite.execute(statement)

    execute(f"CREATE TABLE none_yet (id integer, since {kind}, age double precision)")

    async def go() -> None:
        source = {"kind": "sql", "url": url, "table": "none_yet", "connections": 1}
        async with opened(source, tmp_path, features=["age"], as_of="since") as lookup:
            assert (await lookup.complete([(1,), (2,)])).columns["age"] == [None, None]
            execute("INSERT INTO none_yet VALUES (1, '2026-01-31 12:00:00', 2.5)")
            assert (await lookup.complete([(1,), (2,)])).columns["age"] == [2.5, None]

    asyncio.run(go())


def test_a_slow_statement_is_ended_and_the_next_one_answered(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres_pumps(postgres)

    async def go() -> None:
        source = {"kind": "sql", "url": url, "query": SLOW, "connections": 1}
        async with opened(source, tmp_path, timeout_ms=100, defaults={"age": 40}) as lookup:
            while lookup.stats().timeouts + lookup.stats().failures < 2:
                assert (await lookup.complete([(1,)])).columns["age"] == [40.0]

    asyncio.run(go())
    while postgres.execute(WAITING) != [(0,)]:
        time.sleep(0.02)


def test_a_frozen_database_costs_defaults_and_the_circuit_recovers(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres_pumps(postgres)

    async def go() -> None:
        source = {"kind": "sql", "url": url, "table": "pumps", "connections": 2}
        async with opened(source, tmp_path, timeout_ms=200, defaults={"age": 40}) as lookup:
            await answered(lookup, lambda done: done.columns["age"] == [3.5])
            main = psutil.Process(postgres.pid)
            main.send_signal(signal.SIGSTOP)  # first, so that it starts no other
            frozen = [main, *main.children()]
            for process in frozen:
                process.send_signal(signal.SIGSTOP)
            try:
                while not lookup.stats().is_open:
                    assert (await lookup.complete([(1,)])).columns["age"] == [40.0]
                while lookup.stats().skipped < 2:  # now and then one is let through, to see whether it is back
                    assert (await lookup.complete([(1,), (2,)])).columns["age"] == [40.0, 40.0]
            finally:
                for process in frozen:
                    process.send_signal(signal.SIGCONT)
            while (await lookup.complete([(1,)])).columns["age"] != [3.5]:
                await asyncio.sleep(0.05)
            assert not lookup.stats().is_open

    asyncio.run(go())


def test_connections_from_before_a_restart_cost_nothing(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres_pumps(postgres)

    async def go() -> None:
        async with opened({"kind": "sql", "url": url, "table": "pumps"}, tmp_path, on_failure="fail") as lookup:
            assert (await lookup.complete([(1,)])).columns["age"] == [3.5]
            postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            assert (await lookup.complete([(1,)])).columns["age"] == [3.5]

    asyncio.run(go())


def test_a_lookup_cannot_write(tmp_path: Path, postgres: Postgres) -> None:
    postgres_pumps(postgres)
    sqlite_url = sqlite_pumps(tmp_path)

    async def go(url: str, query: str) -> None:
        async with opened({"kind": "sql", "url": url, "query": query}, tmp_path, on_failure="invalid") as lookup:
            assert "lookup in 'pumps' failed" in (await lookup.complete([(1,)])).reasons[0]

    writing = "WITH gone AS (DELETE FROM pumps RETURNING id, age, kind) SELECT id, age, kind FROM gone"
    asyncio.run(go(postgres.home, writing))
    asyncio.run(go(sqlite_url, writing))
    assert completed({"kind": "sql", "url": postgres.home, "table": "pumps"}, tmp_path) == EXPECTED
    assert completed({"kind": "sql", "url": sqlite_url, "table": "pumps"}, tmp_path) == EXPECTED


def test_a_database_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    async def go() -> None:
        source = {"kind": "sql", "url": f"sqlite:///{tmp_path / 'none.db'}", "table": "pumps"}
        async with opened(source, tmp_path, on_failure="invalid") as lookup:
            assert "unable to open database file" in await failure(lookup)

    asyncio.run(go())
    assert not (tmp_path / "none.db").exists()


def test_a_dead_redis_and_a_dead_service_cost_defaults_and_come_back(tmp_path: Path) -> None:
    async def go(source: object, start: Callable[[], None]) -> None:
        async with opened(source, tmp_path, timeout_ms=2000, defaults={"age": 40}) as lookup:
            while not lookup.stats().is_open:
                assert (await lookup.complete([(1,)])).columns["age"] == [40.0]
            start()
            while (await lookup.complete([(1,)])).columns["age"] != [3.5]:
                await asyncio.sleep(0.05)

    redis_server = RedisServer()

    def start_redis() -> None:
        redis_server.start()
        with redis_server.client() as client:
            client.hset("pump:1", mapping={"age": 3.5})

    service = HttpServer({"1": {"age": 3.5}}, tmp_path)
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(redis_server.stop)
        stack.callback(service.stop)
        asyncio.run(go({"kind": "redis", "url": redis_server.url, "key": "pump:{id}"}, start_redis))
        url = f"{service.url}/pumps/{{id}}"
        asyncio.run(go({"kind": "http", "url": url, "hosts": [f"127.0.0.1:{service.port}"]}, service.start))


def test_a_slow_service_is_waited_for_as_long_as_said(tmp_path: Path, service: HttpServer) -> None:
    service.behave("slow 1.5")

    async def go() -> None:
        source = {"kind": "http", "url": f"{service.url}/pumps/{{id}}", "hosts": [f"127.0.0.1:{service.port}"]}
        async with opened(source, tmp_path, timeout_ms=50, on_failure="invalid") as lookup:
            assert (await lookup.complete([(1,)])).reasons == {0: "lookup in 'pumps' took longer than 50 ms"}

    asyncio.run(go())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"kind": "mongo"}, "field 'kind' is 'mongo': it must be one of sql, redis, parquet, http"),
        ({"kind": "sql", "url": "sqlite:///x", "tabel": "t"}, "field 'tabel' is not known: did you mean 'table'?"),
        ({"kind": "sql", "url": "sqlite:///x"}, "give either 'table' or 'query'"),
        ({"kind": "sql", "url": "sqlite:///x", "query": "DROP TABLE x"}, "field 'query': write one SELECT"),
        ({"kind": "sql", "url": "sqlite:///x", "query": "SELECT 1; SELECT 2"}, "without a semicolon"),
        ({"kind": "sql", "url": "postgresql://me:secret@h/d", "table": "t"}, "holds a password"),
        ({"kind": "redis", "url": "redis://:secret@h"}, "holds a password"),
        ({"kind": "http", "url": "https://h/{id}", "hosts": ["g"]}, "the URL's own host 'h' is not among them"),
        ({"kind": "http", "url": "https://{id}.h/", "hosts": ["h"]}, "the host is fixed"),
        ({"kind": "http", "url": "https://h/", "hosts": ["h"], "headers": {"X-Api-Key": "k"}}, "looks like a secret"),
        ({"kind": "http", "url": "ftp://h/", "hosts": ["h"]}, "must be an address"),
    ],
)  # fmt: skip
def test_definitions_that_cannot_be_are_refused(source: Mapping[str, object], words: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        load_source(source)
    assert words in str(error.value)


def test_what_a_source_needs_shows_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Wanted(keys={"id": KeyType.INTEGER}, values=("age",))

    def open_it(source: Mapping[str, object]) -> object:
        return open_reader(load_source(source), wanted, cache=tmp_path, timeout_s=1)

    monkeypatch.delenv("PUMPS_PASSWORD", raising=False)
    with pytest.raises(InvalidSpec, match="PUMPS_PASSWORD is not set"):
        open_it({"kind": "sql", "url": "postgresql://me:${PUMPS_PASSWORD}@h/d", "table": "t"})
    with pytest.raises(InvalidSpec, match=r"must hold exactly the lookup's keys as the source calls them: \{id\}"):
        open_it({"kind": "redis", "url": "redis://h", "key": "pump:{unit}"})
    with pytest.raises(InvalidSpec, match="needs 'key' to look up"):
        open_it({"kind": "redis", "url": "redis://h"})
    with pytest.raises(InvalidInput, match="URL cannot be read"):
        open_it({"kind": "sql", "url": "no:url", "table": "t"})
    with pytest.raises(InvalidInput, match="driver 'oracledb' is not installed"):
        open_it({"kind": "sql", "url": "oracle+oracledb://h/d", "table": "t"})
    for kind, reader in (
        ("redis", {"url": "redis://h", "key": "p:{id}"}),
        ("http", {"url": "http://h/", "hosts": ["h"]}),
    ):
        opened_reader = open_it({"kind": kind, **reader})
        with pytest.raises(InvalidInput, match="keeps no history"):
            opened_reader.history()  # type: ignore[attr-defined]
        asyncio.run(opened_reader.close())  # type: ignore[attr-defined]


def test_a_damaged_cache_is_told_and_a_deleted_one_written_anew(tmp_path: Path) -> None:
    source = {"kind": "parquet", "path": str(parquet_pumps(tmp_path))}
    assert completed(source, tmp_path) == EXPECTED
    for path in (tmp_path / "cache").glob("*.arrow"):
        path.write_bytes(b"damaged")

    async def go() -> None:
        async with opened(source, tmp_path, on_failure="invalid") as lookup:
            assert "delete it, and it is written anew" in await failure(lookup)

    asyncio.run(go())
    for path in (tmp_path / "cache").glob("*.arrow"):
        path.unlink()
    assert completed(source, tmp_path) == EXPECTED
