"""A whole business step per request: only a key comes in; lookup, inference, rule, durable result, answer."""

import contextlib
import statistics
from collections.abc import Iterator

import psycopg

from benchmarks import http_load, servers
from benchmarks.case import Bound, Effort, Result, seconds
from benchmarks.population import FEATURES, KEYS, segment
from benchmarks.serving_fleets import ROW, Home, even_numbers, home, ridges
from tests.databases import PostgresqlServer

MODELS = 10_000
RATE = 200
CONNECTIONS = 32
MEASURED_S = 10.0
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "shared_buffers": "64MB"}
"""As a user's server is set; tests run theirs without."""


def key_only(effort: Effort) -> list[Result]:
    """The slowest hundredth of the answers at a fixed rate, with metadata and features in PostgreSQL."""
    count = effort.models(MODELS)
    with postgresql() as database, home(database.url(database.create())) as place:
        place.put(ridges(count))
        _prepare(place, database, count)
        url = place.workspace.settings.database_url
        with servers.shoal(place.path, ["ridges"], "--access-log", "1", key=place.key, database=url) as shoal:
            load = http_load.Load(
                port=shoal.port,
                connections=CONNECTIONS,
                seconds=MEASURED_S,
                requests=[_request(shoal, number) for number in even_numbers(count, count)],
                rate=RATE,
            )
            outcomes = [http_load.run(load) for _ in range(effort.repeats)]
        if any(outcome.refused or outcome.broken or not outcome.answers for outcome in outcomes):
            raise RuntimeError(f"answers that are none: {outcomes}")
        stored = len(place.workspace.predictions.listed(limit=1_000_000))
    if stored < sum(outcome.answers for outcome in outcomes):
        raise RuntimeError(f"{stored} results are stored, fewer than were answered")
    p99_s = statistics.median(outcome.p99_s for outcome in outcomes)
    half_s = statistics.median(outcome.latencies_s[1] for outcome in outcomes)
    return [
        Result(
            case=f"key-only request at {RATE}/s: lookup in PostgreSQL, infer, rule, durable result, answer; p99",
            against="a fixed limit",
            shoal=seconds(p99_s),
            figure=1e3 * p99_s,
            unit="ms",
            limit=20,
            bound=Bound.AT_MOST,
            note=(
                f"half of them within {seconds(half_s)}; {count:,} models, nothing cached, PostgreSQL on the same "
                "machine with fsync; requests are due at even times, and latency counts from when they were due"
            ),
        )
    ]


@contextlib.contextmanager
def postgresql() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server for as long as the block lasts."""
    server = PostgresqlServer(**DURABLE)
    try:
        yield server
    finally:
        server.remove()


def _prepare(place: Home, database: PostgresqlServer, count: int) -> None:
    """Features of every key in a table, and a fleet that looks them up."""
    features = database.url(database.create())
    with psycopg.connect(features) as connection, connection.cursor() as cursor:
        columns = ", ".join(f"{name} DOUBLE PRECISION NOT NULL" for name in FEATURES)
        keys = ", ".join(f"{name} TEXT NOT NULL" for name in KEYS)
        cursor.execute(f"CREATE TABLE units ({keys}, {columns}, PRIMARY KEY ({', '.join(KEYS)}))".encode())
        with cursor.copy(f"COPY units ({', '.join((*KEYS, *FEATURES))}) FROM STDIN".encode()) as copy:
            for number in range(count):
                copy.write_row((*segment(number), *ROW))
        cursor.execute(b"ANALYZE units")
    place.workspace.set_source("units", {"kind": "sql", "url": features, "table": "units"})
    place.workspace.set_serving("ridges", {
        "lookup": {"source": "units", "keys": list(KEYS), "features": list(FEATURES), "on_failure": "fail",
                   "timeout_ms": 1000},
        "rules": {"decision": "CASE WHEN prediction > 1 THEN 'stop' ELSE 'go' END"},
        "store": "durable",
        "log": {},
    })  # fmt: skip


def _request(server: servers.Server, number: int) -> bytes:
    inputs = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [value]}
        for name, value in zip(KEYS, segment(number), strict=True)
    ]
    return server.request("/v2/models/ridges/infer", {"inputs": inputs})


CASES = {"serve-key-only": key_only}
