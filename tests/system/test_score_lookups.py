"""Jobs look features up as requests do: from every kind of source, now or as it was then, and when it fails."""

import asyncio
import contextlib
import datetime as dt
import json
import signal
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import psycopg
import pytest
from score_process import kill

import shoal
from shoal import Workspace
from shoal.batch import asking
from shoal.errors import InputChanged, InvalidInput, InvalidSpec, StorageError
from shoal.jobs.states import RunState
from shoal.requests.loading import load_lookup
from shoal.requests.point_in_time import join
from tests.databases import PostgresqlServer
from tests.lookup_servers import HttpServer, RedisServer
from tests.system.parity import SHARD_ROWS, bits, require_same, scored, served
from tests.unit.serving.fleets import categories, pumps, rows_for

SITES = 40
#: What the source has: no row, nulls, odd numbers.
LEVELS: dict[int, tuple[float | None, float | None]] = {
    site: [(site / 7, -site / 3), (None, 1.0), (0.0, None), (-0.0, 1e-300)][site % 4]
    for site in range(SITES)
    if site % 5
}
LOOKUP = {
    "source": "sites", "keys": {"site": "id"}, "key_types": {"site": "integer"},
    "features": {"y": "level", "z": "depth"}, "defaults": {"z": 0.25}, "timeout_ms": 10_000,
}  # fmt: skip
RULES = {"sum": "y + z", "odd": "y IS NULL"}
NOW = dt.datetime.now(dt.UTC).replace(tzinfo=None)


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests together take so long that what was in the future when they began is past at their end."""
    monkeypatch.setitem(globals(), "NOW", dt.datetime.now(dt.UTC).replace(tzinfo=None))


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with shoal.open(tmp_path / "home", actor="ada") as opened:
        yield opened


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def http_rows() -> dict[str, object]:
    return {str(site): {"level": level, "depth": depth} for site, (level, depth) in LEVELS.items()}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[HttpServer]:
    folder = tmp_path / "service"
    folder.mkdir()
    with HttpServer(http_rows(), folder) as server:
        yield server


def serve(workspace: Workspace, source: object, **changes: object) -> None:
    """The fleet ``pumps``, whose features y and z are looked up by a column that is nothing else."""
    workspace.promote("pumps", workspace.register(pumps()).version)
    workspace.set_source("sites", source)  # type: ignore[arg-type]
    workspace.set_serving("pumps", spec(**changes))


def spec(**changes: object) -> dict[str, object]:
    checks = {"inputs": {"y": {"max": 5}}, "outputs": {"prediction": {"max": 1.5}}}
    return {"lookup": {**LOOKUP, **changes}, "checks": checks, "rules": RULES}


def rows(count: int = 300, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    sites = [None if site >= SITES else int(site) for site in rng.integers(SITES + 3, size=count)]
    return rows_for(pumps(), rng, count).with_columns(site=pl.Series(sites, dtype=pl.Int64))


def flat() -> list[tuple[int, float | None, float | None]]:
    return [(site, level, depth) for site, (level, depth) in LEVELS.items()]


@pytest.fixture
def source(
    request: pytest.FixtureRequest, tmp_path: Path, postgresql: PostgresqlServer, redis_server: RedisServer
) -> object:
    """A source of the kind that the test is about."""
    kind = request.param
    if kind == "parquet":
        schema = {"id": pl.Int32, "level": pl.Float64, "depth": pl.Float64}
        pl.DataFrame(flat(), schema=schema, orient="row").write_parquet(tmp_path / "sites.parquet")
        return {"kind": "parquet", "path": str(tmp_path / "sites.parquet")}
    if kind == "sqlite":
        with contextlib.closing(sqlite3.connect(tmp_path / "sites.db")) as connection, connection:
            connection.execute("CREATE TABLE sites (id INTEGER PRIMARY KEY, level REAL, depth REAL)")
            connection.executemany("INSERT INTO sites VALUES (?, ?, ?)", flat())
        return {"kind": "sql", "url": f"sqlite:///{tmp_path / 'sites.db'}", "table": "sites"}
    if kind == "postgresql":
        database = postgresql.create()
        with psycopg.connect(postgresql.url(database)) as connection:
            connection.execute("CREATE TABLE sites (id bigint, level numeric, depth double precision)")
            connection.cursor().executemany("INSERT INTO sites VALUES (%s, %s, %s)", flat())
        return {"kind": "sql", "url": postgresql.url(database), "table": "sites"}
    if kind == "redis":
        with redis_server.client() as client:
            for site, (level, depth) in LEVELS.items():
                client.set(f"site:{site}", json.dumps({"level": level, "depth": depth}))
        return {"kind": "redis", "url": redis_server.url, "key": "site:{id}", "format": "json"}
    service = request.getfixturevalue("service")
    url = f"{service.url}/sites" + ("/{id}" if kind == "http" else "")
    return {"kind": "http", "url": url, "hosts": [f"127.0.0.1:{service.port}"]}


@pytest.mark.parametrize("source", ["parquet", "sqlite", "postgresql", "redis", "http", "http together"], indirect=True)
@pytest.mark.parametrize("on_missing", ["defaults", "invalid"])
def test_features_are_looked_up_as_requests_look_them_up(
    workspace: Workspace, tmp_path: Path, source: object, on_missing: str
) -> None:
    serve(workspace, source, on_missing=on_missing)
    frame = rows()
    server = served(workspace, "pumps", frame, leave_out=("y", "z"))
    job, _ = scored(workspace, "pumps", frame.drop("y", "z"), tmp_path / "job", serving=True)
    require_same(job, server)
    assert ("lookup in 'sites' knows no such key" in server["reason"]) == (on_missing == "invalid")
    assert {"scored", "invalid", "failed"} <= set(server["outcome"])


@pytest.mark.parametrize("source", ["parquet"], indirect=True)
def test_features_that_the_input_has_are_taken_as_they_are(
    workspace: Workspace, tmp_path: Path, source: object
) -> None:
    serve(workspace, source)
    frame = rows()
    for number, left_out in enumerate((("y",), ())):
        server = served(workspace, "pumps", frame, leave_out=left_out)
        given = frame.drop(left_out).with_columns(pl.col("z").fill_nan(None))
        given = given if number == 0 else given.drop("site")  # nothing is left to be looked up by it
        job, _ = scored(workspace, "pumps", given, tmp_path / f"job-{number}", serving=True)
        require_same(job, server)


@pytest.mark.parametrize("source", ["sqlite"], indirect=True)
def test_a_job_may_be_started_where_a_loop_runs(workspace: Workspace, tmp_path: Path, source: object) -> None:
    """As in a notebook."""
    serve(workspace, source)

    async def main() -> None:
        scored(workspace, "pumps", rows(60).drop("y", "z"), tmp_path / "job", serving=True)

    asyncio.run(main())


@pytest.mark.parametrize("source", ["parquet"], indirect=True)
def test_looked_up_features_can_be_carried_and_listed(workspace: Workspace, tmp_path: Path, source: object) -> None:
    serve(workspace, source, on_missing="invalid")
    given = rows().drop("y", "z")
    job, summary = scored(workspace, "pumps", given, tmp_path / "job", serving=True, carry=["z", "site"])
    assert bits(job["z"]) == bits(
        [LEVELS[s][1] if s in LEVELS and LEVELS[s][1] is not None else 0.25 for s in given["site"]]
    )
    listed = [json.loads(line) for line in summary.errors.read_text().splitlines()]  # type: ignore[union-attr]
    assert {"y", "z", "reason"} <= set(listed[0])
    assert "lookup in 'sites' knows no such key" in {line["reason"] for line in listed}


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("source", ["sqlite"], indirect=True)
def test_text_files_and_single_files_are_the_same(
    workspace: Workspace, tmp_path: Path, source: object, form: str
) -> None:
    serve(workspace, source)
    frame = (
        rows(120)
        .with_columns(pl.col("x").replace([float("inf")], [1.0]))
        .with_columns(pl.col("device").fill_null("nobody"), pl.col("sensor").fill_null("s9"))
    )
    server = served(workspace, "pumps", frame, leave_out=("y", "z"))
    given, output = tmp_path / f"in.{form}", tmp_path / f"out.{form}"
    {"csv": frame.drop("y", "z").write_csv, "jsonl": frame.drop("y", "z").write_ndjson,
     "parquet": frame.drop("y", "z").write_parquet}[form](given)  # fmt: skip
    told = {"fleet": "pumps", "input": str(given), "output": str(output), "shard_rows": 50, "serving": True}
    workspace.score(told)  # type: ignore[arg-type]
    read = {"csv": pl.read_csv, "jsonl": pl.read_ndjson, "parquet": pl.read_parquet}[form]
    found = read(output)
    for name in ("prediction", "sum"):
        assert bits(found[name].cast(pl.Float64).to_list()) == bits(server[name])
    for name in ("outcome", "odd", "reason", "model_level"):
        assert found[name].cast(pl.String).to_list() == [
            None if v is None else str(v).lower() if isinstance(v, bool) else v for v in server[name]
        ]


def test_each_key_is_asked_for_once_per_shard(workspace: Workspace, tmp_path: Path, service: HttpServer) -> None:
    url = f"{service.url}/sites/{{id}}"
    serve(workspace, {"kind": "http", "url": url, "hosts": [f"127.0.0.1:{service.port}"]})
    given = rows(400).drop("y", "z")
    _, summary = scored(workspace, "pumps", given, tmp_path / "job", serving=True)
    parts = [pl.read_parquet(path) for path in sorted((tmp_path / "job" / "out").glob("part-*"))]
    sites = given["site"].to_list()
    expected, start = [], 0
    for part in parts:
        expected += {site for site in sites[start : start + part.height] if site is not None}
        start += part.height
    asked = [int(line.split()[1].rsplit("/", 1)[-1]) for line in (service.folder / "log").read_text().splitlines()]
    assert sorted(asked) == sorted(expected)
    assert len(parts) > 3
    assert summary.ledger.totals.counts.rows == 400


PAST = ("sqlite", "parquet", "postgresql")


def history(seed: int = 3) -> list[tuple[int, dt.datetime, float | None]]:
    """Levels of sites as they changed, some after now; several at one time, some unknown."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(400):
        since = NOW.replace(microsecond=0) + dt.timedelta(hours=int(rng.integers(-500, 30)))
        level = None if rng.random() < 0.1 else float(rng.normal())
        made.append((int(rng.integers(8)), since, level))
    return made


def as_it_was(
    past: Sequence[tuple[int, dt.datetime, float | None]], site: int, at: dt.datetime, age_s: float
) -> object:
    """The plain way; "nothing" where the source had none."""
    known = [(since, level is not None, level or 0.0) for one, since, level in past if one == site and since <= at]
    if not known or (at - max(known)[0]).total_seconds() > age_s:
        return "nothing"
    _, is_there, level = max(known)
    return level if is_there else None


def kept(
    kind: str, past: list[tuple[int, dt.datetime, float | None]], folder: Path, server: PostgresqlServer
) -> object:
    if kind == "parquet":
        schema = {"id": pl.Int64, "since": pl.Datetime("ns"), "level": pl.Float64}
        frame = pl.DataFrame(past, schema=schema, orient="row")
        frame.write_parquet(folder / "past.parquet")
        return {"kind": "parquet", "path": str(folder / "past.parquet")}
    if kind == "sqlite":
        with contextlib.closing(sqlite3.connect(folder / "past.db")) as connection, connection:
            connection.execute("CREATE TABLE past (id INTEGER, since TEXT, level REAL)")
            connection.executemany("INSERT INTO past VALUES (?, ?, ?)", [(n, str(s), z) for n, s, z in past])
        return {"kind": "sql", "url": f"sqlite:///{folder / 'past.db'}", "table": "past"}
    database = server.create()
    with psycopg.connect(server.url(database)) as connection:
        connection.execute("CREATE TABLE past (id bigint, since timestamp, level double precision)")
        connection.cursor().executemany("INSERT INTO past VALUES (%s, %s, %s)", past)
    return {"kind": "sql", "url": server.url(database), "table": "past"}


TIMED = {"features": {"y": "level"}, "defaults": {}, "as_of": "since", "max_age_s": 150 * 3600.0}


def timed_rows(count: int = 300) -> pl.DataFrame:
    rng = np.random.default_rng(9)
    times = [None if h > 520 else NOW - dt.timedelta(hours=int(h)) for h in rng.integers(530, size=count)]
    sites = pl.Series([None if s == 9 else int(s) for s in rng.integers(10, size=count)], dtype=pl.Int64)
    return rows(count).with_columns(site=sites, at=pl.Series(times, dtype=pl.Datetime("us")))


@pytest.mark.parametrize("most_past", [asking.MOST_PAST, 60])
@pytest.mark.parametrize("kind", PAST)
def test_rows_get_what_held_at_their_own_time(
    workspace: Workspace, tmp_path: Path, postgresql: PostgresqlServer, monkeypatch: pytest.MonkeyPatch, kind: str,
    most_past: int,
) -> None:  # fmt: skip
    """Also where the past of a few keys is all that may be held."""
    monkeypatch.setattr(asking, "MOST_PAST", most_past)
    past, frame = history(), timed_rows()
    serve(workspace, kept(kind, past, tmp_path, postgresql), on_missing="invalid", **TIMED)
    told = {"serving": True, "time": "at", "carry": ["y", "site", "at"]}
    job, _ = scored(workspace, "pumps", frame.drop("y"), tmp_path / "job", **told)
    missing = "lookup in 'sites' knows no such key"
    for row, (site, at) in enumerate(zip(frame["site"], frame["at"], strict=True)):
        truth = "nothing" if site is None or at is None else as_it_was(past, site, at, TIMED["max_age_s"])  # type: ignore[arg-type]
        assert (job["reason"][row] == missing) == (truth == "nothing"), row
        assert job["y"][row] == (None if truth == "nothing" else truth), row
    assert {"scored", "invalid"} <= set(job["outcome"])
    lookup = load_lookup({**LOOKUP, **TIMED})
    trained = join(frame, workspace.history(lookup, {"id": "integer"}), lookup, "at")  # type: ignore[dict-item]
    assert bits(trained["y"].to_list()) == bits(job["y"])


@pytest.mark.parametrize("kind", PAST)
def test_the_present_is_what_a_request_gets_now(
    workspace: Workspace, tmp_path: Path, postgresql: PostgresqlServer, kind: str
) -> None:
    """Whether the job looks up the present, or each row's time happens to be now."""
    past, frame = history(), timed_rows()
    serve(workspace, kept(kind, past, tmp_path, postgresql), **TIMED)
    frame = frame.with_columns(at=pl.lit(NOW))
    server = served(workspace, "pumps", frame.drop("at"), leave_out=("y",))
    for number, told in enumerate(({}, {"time": "at"})):
        job, _ = scored(workspace, "pumps", frame.drop("y"), tmp_path / f"job-{number}", serving=True, **told)
        require_same(job, server)


def test_a_time_that_is_none_costs_its_row(workspace: Workspace, tmp_path: Path, postgresql: PostgresqlServer) -> None:
    past = history()
    serve(workspace, kept("parquet", past, tmp_path, postgresql), **TIMED)
    frame = timed_rows(90).with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6f"))
    odd = frame.with_columns(at=pl.when(pl.int_range(pl.len()) == 4).then(pl.lit("soon")).otherwise("at"))
    told = {"serving": True, "time": "at", "carry": ["y"]}
    fine, _ = scored(workspace, "pumps", frame.drop("y"), tmp_path / "fine", **told)
    job, _ = scored(workspace, "pumps", odd.drop("y"), tmp_path / "odd", **told)
    assert (job["outcome"][4], job["reason"][4]) == ("invalid", "'at' is 'soon', no time")
    for name in ("prediction", "y", "outcome", "reason"):
        assert bits(job[name][:4] + job[name][5:]) == bits(fine[name][:4] + fine[name][5:])


def test_what_cannot_be_looked_up_is_refused_before_anything_is_done(
    workspace: Workspace, tmp_path: Path, redis_server: RedisServer, postgresql: PostgresqlServer
) -> None:
    serve(workspace, {"kind": "redis", "url": redis_server.url, "key": "site:{id}"}, **TIMED)

    def refused(number: int, frame: pl.DataFrame, **job: object) -> str:
        with pytest.raises(InvalidInput) as caught:
            scored(workspace, "pumps", frame, tmp_path / f"job-{number}", **job)
        return str(caught.value)

    frame = timed_rows(30).drop("y")
    workspace.set_source("sites", {"kind": "sql", "url": "postgresql://me:${NO_SUCH}@127.0.0.1/db", "table": "sites"})
    assert "NO_SUCH is not set" in refused(9, frame, serving=True)
    workspace.set_source("sites", {"kind": "redis", "url": redis_server.url, "key": "site:{id}"})
    assert "keeps no history" in refused(0, frame, serving=True, time="at")
    workspace.set_source("sites", kept("parquet", history(), tmp_path, postgresql))  # type: ignore[arg-type]
    assert "'site'" in refused(1, frame.drop("site"), serving=True)
    assert "'at' is Float64" in refused(2, frame.with_columns(at=1.5), serving=True, time="at")
    assert "needs a lookup with 'as_of'" in refused(3, frame, serving={"lookup": LOOKUP}, time="at")
    assert "has none" in refused(4, rows(30), serving={"rules": {"a": "1"}}, time="at")
    assert "set 'serving'" in refused(5, frame, time="at")
    assert "output that a rule adds" in refused(
        6, rows(30).with_columns(a=1), serving={"rules": {"a": "1"}}, carry=["a"]
    )
    assert "no_such" in refused(7, rows(30), serving={"rules": {"a": "no_such + 1"}})
    assert workspace.runs() == []


def test_files_must_agree_on_what_they_bring(
    workspace: Workspace, tmp_path: Path, postgresql: PostgresqlServer
) -> None:
    serve(workspace, kept("parquet", history(), tmp_path, postgresql), **TIMED)
    (tmp_path / "in").mkdir()
    rows(20).write_parquet(tmp_path / "in" / "a.parquet")
    rows(20).drop("y").write_parquet(tmp_path / "in" / "b.parquet")
    with pytest.raises(InvalidSpec, match="some input files have the column 'y'"):
        workspace.score(
            {"fleet": "pumps", "input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "serving": True}
        )


def broken(service: HttpServer, behaviour: str) -> dict[str, object]:
    service.behave(behaviour)
    return {"kind": "http", "url": f"{service.url}/sites", "hosts": [f"127.0.0.1:{service.port}"]}


@pytest.mark.parametrize("on_failure", ["defaults", "invalid"])
def test_a_source_that_fails_is_never_hidden(
    workspace: Workspace, tmp_path: Path, service: HttpServer, on_failure: str
) -> None:
    source = broken(service, "status 500")
    serve(workspace, source, on_failure=on_failure, defaults={"y": 0.5, "z": 0.25})
    frame = rows(120)
    job, _ = scored(workspace, "pumps", frame.drop("y", "z"), tmp_path / "job", serving=True)
    keyed = frame["site"].is_not_null()
    said = [reason for reason, is_keyed in zip(job["reason"], keyed, strict=True) if is_keyed]
    assert all("lookup in 'sites' failed" in str(reason) and "500" in str(reason) for reason in said)
    if on_failure == "invalid":
        assert {o for o, k in zip(job["outcome"], keyed, strict=True) if k} == {"invalid"}
        return
    assert all(str(reason).endswith("defaults stand in") for reason in said)
    given = frame.with_columns(y=0.5, z=0.25)
    truth, _ = scored(workspace, "pumps", given, tmp_path / "given", serving=True)
    for name in ("prediction", "sum", "outcome"):
        assert bits(job[name]) == bits(truth[name])
    shards = -(-120 // SHARD_ROWS) + 1
    assert service.requests <= shards * asking.ATTEMPTS


@pytest.mark.parametrize("on_failure", ["defaults", "invalid"])
def test_a_key_that_fails_alone_costs_its_own_rows(workspace: Workspace, tmp_path: Path, on_failure: str) -> None:
    folder = tmp_path / "service"
    folder.mkdir()
    with HttpServer({**http_rows(), "7": "no object"}, folder) as service:
        url = f"{service.url}/sites/{{id}}"
        source = {"kind": "http", "url": url, "hosts": [f"127.0.0.1:{service.port}"]}
        serve(workspace, source, on_failure=on_failure)
        frame = rows(150)
        server = served(workspace, "pumps", frame, leave_out=("y", "z"))
        job, _ = scored(workspace, "pumps", frame.drop("y", "z"), tmp_path / "job", serving=True)
    words = "features should be a JSON object, and not str"
    affected = [site == 7 for site in frame["site"]]
    assert any(affected)
    require_same(job, server)
    if on_failure == "defaults":
        words = f"{words}; defaults stand in"
    assert [reason == words for reason in job["reason"]] == affected


def test_a_job_that_must_not_go_on_without_its_source_fails_and_goes_on_later(
    workspace: Workspace, tmp_path: Path, service: HttpServer
) -> None:
    serve(workspace, broken(service, "hangup"), on_failure="fail")
    frame = rows(120)
    with pytest.raises(StorageError, match="lookup in 'sites' failed"):
        scored(workspace, "pumps", frame.drop("y", "z"), tmp_path / "job", serving=True)
    assert not (tmp_path / "job" / "out").exists()
    (run,) = workspace.runs()
    assert run.state is RunState.FAILED
    service.behave("well")
    assert workspace.resume(run.id).state is RunState.SUCCEEDED
    server = served(workspace, "pumps", frame, leave_out=("y", "z"))
    found = pl.concat(pl.read_parquet(path) for path in sorted((tmp_path / "job" / "out").glob("part-*.parquet")))
    assert bits(found["prediction"].to_list()) == bits(server["prediction"])


def test_a_short_failure_costs_nothing(workspace: Workspace, tmp_path: Path, redis_server: RedisServer) -> None:
    """A source that is away for a moment is asked again, so that no row gets a default for it."""
    with RedisServer() as away:
        with away.client() as client:
            for site, (level, depth) in LEVELS.items():
                client.set(f"site:{site}", json.dumps({"level": level, "depth": depth}))
        serve(workspace, {"kind": "redis", "url": away.url, "key": "site:{id}", "format": "json"})
        away.signal(signal.SIGSTOP)
        threading.Timer(1.5, away.signal, [signal.SIGCONT]).start()
        frame = rows(60)
        job, _ = scored(workspace, "pumps", frame.drop("y", "z"), tmp_path / "job", serving=True)
        require_same(job, served(workspace, "pumps", frame, leave_out=("y", "z")))


def test_what_a_source_means_is_pinned(workspace: Workspace, tmp_path: Path, postgresql: PostgresqlServer) -> None:
    source = kept("parquet", history(), tmp_path, postgresql)
    serve(workspace, source, **TIMED)
    (tmp_path / "in").mkdir()
    rows(200).drop("y").write_parquet(tmp_path / "in" / "a.parquet")
    told = {
        "fleet": "pumps",
        "input": str(tmp_path / "in"),
        "output": str(tmp_path / "out"),
        "shard_rows": 50,
        "serving": True,
    }
    kill(tmp_path / "home", told, "finished", 2)
    (run,) = workspace.runs()
    other = kept("sqlite", history(4), tmp_path, postgresql)
    workspace.set_source("sites", other)  # type: ignore[arg-type]
    with pytest.raises(InputChanged, match="the source 'sites' is not what the run pinned"):
        workspace.resume(run.id)
    assert workspace.ledger.run(run.id).state is RunState.RUNNING
    workspace.set_source("sites", source)  # type: ignore[arg-type]
    assert workspace.resume(run.id).state is RunState.SUCCEEDED


def test_a_feature_that_is_a_text_is_looked_up_too(workspace: Workspace, tmp_path: Path) -> None:
    fleet = categories()
    workspace.promote("routes", workspace.register(fleet).version)
    names = [("f1", "UA"), ("f2", "AA"), ("f3", None), ("f4", "??")]
    pl.DataFrame(names, schema=["flight", "carrier"], orient="row").write_parquet(tmp_path / "flights.parquet")
    workspace.set_source("flights", {"kind": "parquet", "path": str(tmp_path / "flights.parquet")})
    lookup = {
        "source": "flights", "keys": ["flight"], "key_types": {"flight": "string"}, "features": ["carrier"],
        "defaults": {"carrier": "DL"}, "timeout_ms": 10_000,
    }  # fmt: skip
    workspace.set_serving("routes", {"lookup": lookup, "rules": {"who": "carrier"}})
    rng = np.random.default_rng(0)
    flights = [["f1", "f2", "f3", "f4", "f9", None][i] for i in rng.integers(6, size=120)]
    frame = rows_for(fleet, rng, 120).with_columns(flight=pl.Series(flights, dtype=pl.String))
    server = served(workspace, "routes", frame, leave_out=("carrier",))
    job, _ = scored(workspace, "routes", frame.drop("carrier"), tmp_path / "job", serving=True)
    require_same(job, server)
    assert {"UA", "AA", "DL"} <= set(job["who"])


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_row_is_looked_up_by_its_own_text(workspace: Workspace, tmp_path: Path, form: str) -> None:
    """Whatever stands beside it: an integer above 2^53 is not rounded for a neighbour with a point."""
    first = 2**53
    known = pl.DataFrame({"id": [7, first, first + 1], "level": [0.5, 1.0, 2.0], "depth": [0.0, 0.0, 0.0]})
    known.write_parquet(tmp_path / "sites.parquet")
    serve(workspace, {"kind": "parquet", "path": str(tmp_path / "sites.parquet")})
    sites = [first + 1, first, "7", "7.0", "1.5", "true", "null" if form == "jsonl" else "", "1e400", 10**20]

    def features(sites: Sequence[object]) -> list[tuple[object, ...]]:
        lines = [f"b:1,s1,0.1,{site}" for site in sites]
        if form == "jsonl":
            lines = [f'{{"device": "b:1", "sensor": "s1", "x": 0.1, "site": {json_value(site)}}}' for site in sites]
        path = tmp_path / f"rows.{form}"
        path.write_text("\n".join([*(["device,sensor,x,site"] if form == "csv" else []), *lines, ""]))
        job = {"fleet": "pumps", "input": str(path), "output": str(tmp_path / "out.parquet"), "serving": True}
        workspace.score({**job, "if_exists": "replace"})
        return pl.read_parquet(tmp_path / "out.parquet").select("prediction", "sum", "odd", "outcome", "reason").rows()

    together = features(sites)
    assert together == [features([site])[0] for site in sites]
    assert [row[1] for row in together[:4]] == [2.0, 1.0, 0.5, 0.5]


def json_value(text: object) -> object:
    return f'"{text}"' if text in ("true", "1e400") else text
