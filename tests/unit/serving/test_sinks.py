"""Sinks get each result, once where they can tell, signed where they cannot; those that are away get it later."""

import asyncio
import contextlib
import datetime as dt
import json
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa

from shoal.errors import DeadlineExceeded, InvalidInput, InvalidSpec, LeaseLost, NotFound, Unauthenticated
from shoal.jobs.states import PredictionState
from shoal.security import signing
from shoal.serving import claim_loop, sinks
from shoal.serving.deferred import Wishes
from shoal.serving.documents import response_json
from shoal.serving.payloads import decode_response
from shoal.serving.sinks import document, load_sink
from shoal.storage import sink_sql, sql
from shoal.storage.sink_parquet import SinkFolder
from shoal.storage.sink_sql import SinkRow, SinkTable
from tests.databases import PostgresqlServer
from tests.unit.serving.deferred_world import (
    FOREVER_S,
    OPTIONS,
    accepted,
    context,
    ended,
    opened,
    process,
    request,
    until,
    value_of,
)
from tests.unit.serving.fleets import FLEETS, constant, request_of, rows_for

SECRET = b"between you and me"
CLAIMED, DONE, FAILED = PredictionState.CLAIMED, PredictionState.DONE, PredictionState.FAILED


class Receiver:
    """A service that gets results, and answers as it is told."""

    def __init__(self):
        self.status, self.seen = 204, []
        self.may = threading.Event()
        self.may.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.seen.append((dict(self.headers.items()), body))
                receiver.may.wait(FOREVER_S)
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.may.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def postgresql():
    """A server of PostgreSQL that may be stopped."""
    made = PostgresqlServer(synchronous_commit="on")
    yield made
    made.remove()


@pytest.fixture
def workspace(databases, tmp_path, monkeypatch):
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET.decode())
    with opened(databases.migrated(), tmp_path / "home") as made:
        yield made


@pytest.fixture
def light(sqlite_databases, tmp_path, monkeypatch):
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET.decode())
    with opened(sqlite_databases.migrated(), tmp_path / "home") as made:
        yield made


def name_sink(workspace, name, spec):
    workspace.registry.set_source(name, document(load_sink(spec)), actor="ada")


def webhook(receiver, **given):
    return {
        "kind": "webhook", "url": f"http://{receiver.host}/results", "hosts": [receiver.host],
        "secret": "${WEBHOOK_SECRET}", **given,
    }  # fmt: skip


def send(workspace, sink, requests, *, options=OPTIONS, faults=None):
    """Have requests made that go to a sink; their records."""

    async def main():
        async with process(workspace, options) as (deferred, plane):
            if faults is not None:
                plane.fault = faults
            accepting = [accepted(deferred, one, context(), Wishes(sink=sink)) for one in requests]
            return [await ended(deferred, one) for one in await asyncio.gather(*accepting)]

    return asyncio.run(main())


def test_a_table_gets_every_result_once(workspace, databases):
    url = databases.empty()
    name_sink(workspace, "results", {"kind": "sql_sink", "url": url, "table": "results"})
    records = send(workspace, "results", [request(i) for i in range(40)])
    assert {record.state for record in records} == {DONE}
    with connected(url) as engine:
        rows = rows_of(engine)
    assert sorted(row["prediction_id"] for row in rows) == sorted(record.id for record in records)
    responses = [json.loads(row["response"]) for row in rows]
    assert {response["outputs"][0]["data"][0] for response in responses} == {7.0}
    assert {(row["fleet"], row["version"], row["principal"]) for row in rows} == {("pumps", "1", "ada")}


@contextlib.contextmanager
def connected(url):
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        yield engine
    finally:
        engine.dispose()


def rows_of(engine):
    with engine.connect() as connection:
        return connection.execute(sa.text("SELECT * FROM results")).mappings().all()


async def promoted(workspace, plane, answer):
    """Have another version answer from now on."""
    version = str(workspace.register(constant(answer)).version)
    workspace.promote("pumps", int(version))
    await until(lambda: plane.index()[0].version == version)


def test_a_table_that_takes_nothing_gets_the_same_answer_once_it_does(workspace, databases):
    """Whatever is promoted meanwhile: the answer is kept with the attempt that failed."""
    url = databases.empty()
    name_sink(workspace, "results", {"kind": "sql_sink", "url": url, "table": "results"})
    often = msgspec.structs.replace(OPTIONS, attempts=1000)

    async def main(engine):
        async with process(workspace, often) as (deferred, plane):
            one = await accepted(deferred, request(3), context(), Wishes(sink="results"))
            await until(lambda: workspace.predictions.one(one).attempts >= 2)
            assert workspace.predictions.one(one).answer is not None
            with pytest.raises(DeadlineExceeded, match="ask again"):  # it may fail yet
                workspace.result(one)
            await promoted(workspace, plane, 8.0)
            with engine.begin() as connection:
                connection.execute(sa.text("DROP TABLE results"))
            return await ended(deferred, one), plane.asked

    with connected(url) as engine:
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE results (other INTEGER)"))
        record, asked = asyncio.run(main(engine))
        [row] = rows_of(engine)
    assert (record.state, asked) == (DONE, [3])
    assert (value_of(record), decode_response(record.answer).model_version) == (7.0, "1")
    assert (row["prediction_id"], row["version"]) == (record.id, "1")
    assert json.loads(row["response"]) == json.loads(response_json(decode_response(record.answer)))


def test_what_a_table_never_took_is_a_dead_letter_with_its_answer_and_is_replayed_with_that(workspace, databases):
    url = databases.empty()
    name_sink(workspace, "results", {"kind": "sql_sink", "url": url, "table": "results"})

    async def main(engine):
        async with process(workspace) as (deferred, plane):
            one = await accepted(deferred, request(3), context(), Wishes(sink="results"))
            failed = await ended(deferred, one)
            await promoted(workspace, plane, 8.0)
            with engine.begin() as connection:
                connection.execute(sa.text("DROP TABLE results"))
            await deferred.replay(one)
            return failed, await ended(deferred, one), plane.asked

    with connected(url) as engine:
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE results (other INTEGER)"))
        failed, done, asked = asyncio.run(main(engine))
        [row] = rows_of(engine)
    assert (failed.state, failed.attempts, value_of(failed)) == (FAILED, OPTIONS.attempts, 7.0)
    assert (done.state, done.answer, asked, row["version"]) == (DONE, failed.answer, [3], "1")


def test_a_server_that_ends_while_a_table_is_locked_leaves_the_answer_to_the_next(light, sqlite_databases, monkeypatch):
    """Nobody knows whether the table gets it; whoever goes on must not bring it another answer."""
    monkeypatch.setattr(claim_loop, "_LAST_TURN_S", 60.0)  # which a busy machine may need
    url = sqlite_databases.empty()
    name_sink(light, "results", {"kind": "sql_sink", "url": url, "table": "results"})

    async def main(engine):
        with engine.connect() as lock:
            lock.exec_driver_sql("BEGIN EXCLUSIVE")
            async with process(light) as (deferred, plane):
                one = await accepted(deferred, request(3), context(), Wishes(sink="results"))
                await until(lambda: deferred._loop._attempts._deliveries._running)
                await deferred._loop.drain(0.01)
                given_back = light.predictions.one(one)
            lock.rollback()
        async with process(light) as (deferred, plane):
            await promoted(light, plane, 8.0)
            return given_back, await ended(deferred, one), plane.asked

    with connected(url) as engine:
        given_back, done, _ = asyncio.run(main(engine))
        [row] = rows_of(engine)
    assert (given_back.state, value_of(given_back)) == (PredictionState.WAITING, 7.0)
    assert (done.state, value_of(done), row["version"]) == (DONE, 7.0, "1")


def claimed(workspace, sink):
    return [one for one in workspace.predictions.listed(state=CLAIMED, limit=200) if one.sink == sink]


async def _goes_on_beside(workspace, sink, hangs, goes_on):
    """Have more sent to a sink that hangs than a process holds, then the same without it and to another; the ends."""
    few = msgspec.structs.replace(OPTIONS, batch=4, attempts=1)
    async with process(workspace, few) as (deferred, _):
        for_it = [Wishes(sink=sink, ordering_key="k" if i % 2 else None) for i in range(20)]
        held_up = [await accepted(deferred, request(i), context(), wishes) for i, wishes in enumerate(for_it)]
        await until(lambda: hangs() and len(claimed(workspace, sink)) >= few.batch)
        beside = [await accepted(deferred, request(i), context(), Wishes()) for i in range(12)]
        elsewhere = [await accepted(deferred, request(i), context(), Wishes(sink="lake")) for i in range(12)]
        others = [await ended(deferred, one) for one in beside + elsewhere]
        most = len(claimed(workspace, sink))
        states = {(await deferred.get(one)).is_settled for one in held_up}
        goes_on()
        return others, most, states, [await ended(deferred, one) for one in held_up]


def test_a_webhook_that_hangs_holds_up_nothing_that_does_not_go_there(workspace, receiver, tmp_path):
    name_sink(workspace, "hook", webhook(receiver, timeout_s=FOREVER_S))
    name_sink(workspace, "lake", {"kind": "parquet_sink", "folder": str(tmp_path / "lake")})
    receiver.may.clear()
    others, most, settled, late = asyncio.run(
        _goes_on_beside(workspace, "hook", lambda: receiver.seen, receiver.may.set)
    )
    assert {one.state for one in others} == {DONE}
    assert settled == {False}
    assert most < 2 * 4
    assert {(one.state, one.attempts) for one in late} == {(DONE, 1)}
    came = [dict(headers)["idempotency-key"] for headers, _ in receiver.seen]
    assert sorted(came) == sorted(one.id for one in late)
    in_order = [one.id for one in late if one.ordering_key]
    assert [one for one in came if one in in_order] == in_order


def test_a_table_that_hangs_holds_up_nothing_that_does_not_go_there(light, sqlite_databases, tmp_path, monkeypatch):
    monkeypatch.setattr(sink_sql, "_TIMEOUT_S", FOREVER_S)
    url = sqlite_databases.empty()
    name_sink(light, "results", {"kind": "sql_sink", "url": url, "table": "results"})
    name_sink(light, "lake", {"kind": "parquet_sink", "folder": str(tmp_path / "lake")})
    with connected(url) as engine, engine.connect() as lock:
        lock.exec_driver_sql("BEGIN EXCLUSIVE")
        others, most, settled, late = asyncio.run(_goes_on_beside(light, "results", lambda: True, lock.rollback))
        assert {row["prediction_id"] for row in rows_of(engine)} == {one.id for one in late}
    assert {one.state for one in others} == {DONE}
    assert settled == {False}
    assert most < 2 * 4
    assert {(one.state, one.attempts) for one in late} == {(DONE, 1)}


def test_a_row_is_written_once_by_whoever_comes_first(databases):
    url = databases.empty()
    rows = [
        SinkRow(
            prediction_id=f"p{number}", fleet="f", model="f", version="1", request_id="r", principal="a",
            accepted_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), response="{}",
        )
        for number in range(50)
    ]  # fmt: skip
    tables = [SinkTable(url, "results") for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda table: table.write(rows), tables * 3))
    later = [msgspec.structs.replace(row, response="{}2") for row in rows]
    tables[0].write(later)
    with connected(url) as engine:
        found = [(row["prediction_id"], row["response"]) for row in rows_of(engine)]
    for table in tables:
        table.close()
    assert sorted(found) == sorted((row.prediction_id, "{}") for row in rows)


@pytest.mark.parametrize("kind", FLEETS)
def test_a_folder_has_a_row_for_each_row_of_each_answer(light, tmp_path, kind):
    fleet = FLEETS[kind]()
    name = f"other-{fleet.name}"
    light.promote(name, light.register(fleet, name).version)
    folder = tmp_path / "lake"
    name_sink(light, "lake", {"kind": "parquet_sink", "folder": str(folder)})
    frames = [rows_for(fleet, np.random.default_rng(seed), 5 + seed) for seed in range(4)]
    records = send(light, "lake", [request_of(frame, name) for frame in frames])
    assert {record.state for record in records} == {DONE}
    found = pl.read_parquet(folder / name / "*.parquet")
    assert list((folder / name).glob(".*")) == []
    for record, frame in zip(records, frames, strict=True):
        rows = found.filter(pl.col("prediction_id") == record.id).sort("row")
        assert rows["row"].to_list() == list(range(frame.height))
        expected = light.fleet(name).predict(frame)
        column = "score" if fleet.task == "anomaly" else "prediction"
        assert rows[column].to_list() == expected[column].to_list()


def test_of_two_who_believe_a_result_theirs_one_publishes_it(tmp_path):
    frame = pl.DataFrame({"x": [1, 2]})
    folder, names = SinkFolder(tmp_path), [f"n{number}" for number in range(60)]

    def publish(name):
        try:
            folder.publish("f", name, frame)
        except LeaseLost:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        both = [
            (threads.submit(publish, name), threads.submit(folder.was_published, "f", name, frame)) for name in names
        ]
        pairs = [(mine.result(), seen.result()) for mine, seen in both]
    assert all(mine == seen for mine, seen in pairs)
    assert pl.read_parquet(tmp_path / "f" / "*.parquet").height == 2 * sum(mine for mine, _ in pairs)
    assert [folder.was_published("f", name, frame) for name in names] == [mine for mine, _ in pairs]
    assert {path.suffix for path in (tmp_path / "f").iterdir()} == {".parquet"}


def test_a_webhook_gets_each_result_signed(workspace, receiver):
    name_sink(workspace, "hook", webhook(receiver, headers={"x-team": "pumps"}))
    records = send(workspace, "hook", [request(i) for i in range(20)])
    assert {record.state for record in records} == {DONE}
    assert sorted(json.loads(body)["id"] for _, body in receiver.seen) == sorted(record.id for record in records)
    for headers, body in receiver.seen:
        signing.verify(headers[signing.HEADER], body, SECRET, now_s=time.time())
        with pytest.raises(Unauthenticated):
            signing.verify(headers[signing.HEADER], body, b"another", now_s=time.time())
        assert headers["idempotency-key"] == json.loads(body)["id"]
        assert headers["x-team"] == "pumps"
        assert json.loads(body)["response"]["outputs"][0]["data"] == [7.0]


def test_a_header_is_sent_without_the_line_end_of_its_secret(light, receiver, monkeypatch):
    monkeypatch.setenv("TOKEN", "Bearer abc\n")
    name_sink(light, "hook", webhook(receiver, headers={"authorization": "${TOKEN}"}))
    (record,) = send(light, "hook", [request()])
    assert record.state is DONE
    assert receiver.seen[0][0]["authorization"] == "Bearer abc"


@pytest.mark.parametrize("secret", ["two\nlines", "münze", "\x7f"])
def test_a_secret_that_no_header_can_hold_is_not_repeated(light, receiver, monkeypatch, caplog, secret):
    monkeypatch.setenv("TOKEN", secret)
    name_sink(light, "hook", webhook(receiver, headers={"x-token": "${TOKEN}"}))

    async def main():
        async with process(light) as (deferred, _):
            with pytest.raises(InvalidInput) as refused:
                await accepted(deferred, request(), context(), Wishes(sink="hook"))
            return str(refused.value)

    said = asyncio.run(main())
    assert "its secrets are not set up" in said
    assert "field 'headers.x-token' has a character that no header of HTTP can hold" in caplog.text
    assert secret not in caplog.text + said
    assert repr(secret)[1:-1] not in caplog.text + said


@pytest.mark.parametrize("where", ["secret", "old_secret", "headers"])
def test_a_sink_whose_secrets_a_server_does_not_know_is_refused_at_once(light, receiver, caplog, where):
    value = {"x-token": "${NOT_SET}"} if where == "headers" else "${NOT_SET}"
    name_sink(light, "hook", webhook(receiver, **{where: value}))

    async def main():
        async with process(light) as (deferred, _):
            with pytest.raises(InvalidInput) as refused:
                await accepted(deferred, request(), context(), Wishes(sink="hook"))
            return str(refused.value), light.predictions.listed()

    said, listed = asyncio.run(main())
    assert said == "sink 'hook' cannot be used here: its secrets are not set up; the server's log says which"
    assert (listed, receiver.seen) == ([], [])
    assert "sink 'hook' cannot be used: the environment variable NOT_SET is not set" in caplog.text


def test_a_secret_that_is_gone_later_is_not_named_to_callers(light, receiver, monkeypatch):
    name_sink(light, "hook", webhook(receiver))

    async def main():
        async with process(light) as (deferred, plane):
            plane.may.clear()
            one = await accepted(deferred, request(), context(), Wishes(sink="hook"))
            monkeypatch.delenv("WEBHOOK_SECRET")
            plane.may.set()
            failed = await ended(deferred, one)
            monkeypatch.setenv("WEBHOOK_SECRET", SECRET.decode())
            await deferred.replay(one)
            return failed, await ended(deferred, one)

    failed, done = asyncio.run(main())
    assert (failed.state, done.state, len(receiver.seen)) == (FAILED, DONE, 1)
    assert "sink 'hook'" in failed.error
    assert "WEBHOOK_SECRET" not in failed.error


def test_while_a_secret_is_replaced_both_sign(light, receiver, monkeypatch):
    monkeypatch.setenv("NEW_SECRET", "the next one")
    name_sink(light, "hook", webhook(receiver, secret="${NEW_SECRET}", old_secret="${WEBHOOK_SECRET}"))
    send(light, "hook", [request()])
    headers, body = receiver.seen[0]
    for secret in (SECRET, b"the next one"):
        signing.verify(headers[signing.HEADER], body, secret, now_s=time.time())


def test_a_sink_that_is_away_gets_it_later_and_the_models_are_not_asked_again(light, receiver):
    name_sink(light, "hook", webhook(receiver))
    receiver.status = 503
    asked, often = [], msgspec.structs.replace(OPTIONS, attempts=1000)

    async def main():
        async with process(light, often) as (deferred, plane):
            one = await accepted(deferred, request(3), context(), Wishes(sink="hook"))
            await until(lambda: len(receiver.seen) >= 2)
            receiver.status = 200
            record = await ended(deferred, one)
            asked.extend(plane.asked)
            return record

    record = asyncio.run(main())
    assert (record.state, asked) == (DONE, [3])
    assert record.attempts >= 3
    assert len({body for _, body in receiver.seen}) == 1


def test_a_sink_that_never_takes_it_ends_among_the_dead_letters(light, receiver, tmp_path, caplog):
    name_sink(light, "hook", webhook(receiver))
    receiver.status = 302
    (record,) = send(light, "hook", [request()])
    assert (record.state, record.attempts, len(receiver.seen)) == (FAILED, OPTIONS.attempts, OPTIONS.attempts)
    assert "302" in record.error
    (tmp_path / "file").write_text("in the way")
    name_sink(light, "lake", {"kind": "parquet_sink", "folder": str(tmp_path / "file" / "below")})
    (record,) = send(light, "lake", [request()])
    assert record.state is FAILED
    assert record.error == "the sink's folder cannot be written; the server's log says more: r1"
    assert str(tmp_path / "file") in caplog.text


def drip(place):
    """Begin an answer to whoever comes, and never end it: a byte every now and then."""
    with contextlib.suppress(OSError):
        while True:
            caller, _ = place.accept()
            with caller, contextlib.suppress(OSError):
                caller.sendall(b"HTTP/1.1 200 OK\r\nX-A: ")
                while True:
                    caller.sendall(b"a")
                    time.sleep(0.05)


def test_a_webhook_that_answers_byte_by_byte_has_as_long_as_one_that_says_nothing(light):
    place = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=drip, args=(place,), daemon=True).start()
    host = f"127.0.0.1:{place.getsockname()[1]}"
    hook = {"kind": "webhook", "url": f"http://{host}/", "hosts": [host], "secret": "${WEBHOOK_SECRET}"}
    name_sink(light, "hook", {**hook, "timeout_s": 0.5})
    with place:
        (record,) = send(light, "hook", [request()], options=msgspec.structs.replace(OPTIONS, attempts=2))
    assert (record.state, record.attempts) == (FAILED, 2)
    assert record.error == "the webhook does not answer within 0.5 s"


def test_what_a_sink_says_when_it_fails_is_for_the_log(light, receiver, tmp_path, caplog):
    places = {
        "table": {"kind": "sql_sink", "url": f"postgresql://ada@/none?host={tmp_path}", "table": "results"},
        "hook": {**webhook(receiver), "url": "http://127.0.0.1:1/hook", "hosts": ["127.0.0.1:1"]},
    }
    told = {}
    for name, spec in places.items():
        name_sink(light, name, spec)
        (record,) = send(light, name, [request()])
        assert record.state is FAILED
        told[name] = record.error
        assert f"prediction {record.id} of request r1 failed: " in caplog.text
    more = "; the server's log says more: r1"
    assert told == {
        "table": f"the sink's database does not take the results{more}",
        "hook": f"the webhook does not answer{more}",
    }
    assert str(tmp_path) in caplog.text  # the driver names its socket


async def refusal(deferred, sink):
    """What is said of a sink once it cannot be used any more; for a moment it is remembered."""
    deadline = time.monotonic() + FOREVER_S
    while time.monotonic() < deadline:
        try:
            await deferred._sinks.open(sink)
        except NotFound as error:
            return str(error)
        await asyncio.sleep(0.02)
    raise AssertionError("it is still there")


def test_a_sink_that_is_gone_says_so(light, tmp_path):
    name_sink(light, "lake", {"kind": "parquet_sink", "folder": str(tmp_path / "lake")})

    async def main():
        async with process(light) as (deferred, plane):
            plane.may.clear()
            one = await accepted(deferred, request(), context(), Wishes(sink="lake"))
            await until(lambda: plane.asked)
            light.registry.set_source("lake", None, actor="ada")
            said = await refusal(deferred, "lake")
            plane.may.set()
            record = await ended(deferred, one)
            name_sink(light, "lake", {"kind": "parquet_sink", "folder": str(tmp_path / "new")})
            await deferred.replay(one)
            return said, record, await ended(deferred, one)

    said, failed, done = asyncio.run(main())
    assert (failed.state, done.state) == (FAILED, DONE)
    assert said == failed.error == "there is no sink 'lake'; see `shoal sinks list`"
    assert pl.read_parquet(tmp_path / "new" / "pumps" / "*.parquet")["prediction_id"].to_list() == [done.id]


def test_a_registry_that_does_not_say_what_a_sink_is_costs_no_attempt(
    postgresql, tmp_path, receiver, monkeypatch, caplog
):
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET.decode())
    monkeypatch.setattr(sql, "RECONNECT_S", 0.2)
    monkeypatch.setattr(sinks, "_REMEMBERED_S", 0.0)

    async def main(workspace):
        async with process(workspace, msgspec.structs.replace(OPTIONS, attempts=1)) as (deferred, plane):
            plane.may.clear()
            one = await accepted(deferred, request(), context(), Wishes(sink="hook"))
            await until(lambda: plane.asked)
            await asyncio.to_thread(postgresql.stop, signal.SIGQUIT)
            plane.may.set()
            await until(lambda: f"prediction {one} of request r1 failed" in caplog.text)
            await asyncio.to_thread(postgresql.start)
            started_s, contact = time.monotonic(), plane.plane.contact
            await until(lambda: contact.answered_at_s > started_s and not contact.problem)
            return await ended(deferred, one)

    with opened(postgresql.url(postgresql.take()), tmp_path / "home") as workspace:
        name_sink(workspace, "hook", webhook(receiver))
        record = asyncio.run(main(workspace))
    assert (record.state, len(receiver.seen)) == (DONE, 1)
    assert "something went wrong here" not in caplog.text
    assert "the registry does not say now what the sink 'hook' is" in caplog.text


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"kind": "pigeon"}, "sql_sink, parquet_sink, webhook"),
        ({"kind": "sql_sink", "url": "sqlite:///x", "table": "a; DROP TABLE b"}, "table"),
        ({"kind": "sql_sink", "url": "sqlite:///x"}, "table"),
        ({"kind": "parquet_sink", "folder": "/x", "colour": "red"}, "colour"),
        ({"kind": "sql_sink", "url": "mysql://ada@db/shop", "table": "t"}, "SQLite or PostgreSQL, not of 'mysql'"),
        ({"kind": "sql_sink", "url": "/tmp/results.db", "table": "t"}, "SQLite or PostgreSQL; write sqlite:///PATH"),
        ({"kind": "webhook", "url": "http://a/x", "hosts": ["b"], "secret": "${S}"}, "hosts"),
        ({"kind": "webhook", "url": "http://127.0.0.1:18099/h", "hosts": ["127.0.0.1"], "secret": "${S}"},
         "own host '127.0.0.1:18099' is not among them; write it as it is here"),
        ({"kind": "webhook", "url": "https://me:pw@[::1]:443/h", "hosts": ["::1"], "secret": "${S}"},
         "own host '[::1]' is not among them"),
        ({"kind": "webhook", "url": "http://a/x", "hosts": ["a"], "secret": "plain"}, "secret"),
        ({"kind": "webhook", "url": "http://a/x", "hosts": ["a"], "secret": "${S}", "headers": {"Authorization": "x"}},
         "Authorization"),
        ({"kind": "webhook", "url": "ftp://a/x", "hosts": ["a"], "secret": "${S}"}, "https"),
        ({"kind": "webhook", "url": "http://a/x", "hosts": ["a"], "secret": "${S}", "timeout_s": 0}, "timeout_s"),
    ],
)  # fmt: skip
def test_a_definition_that_is_wrong_is_refused(spec, said):
    with pytest.raises(InvalidSpec, match=re.escape(said)):
        load_sink(spec)


@pytest.mark.parametrize(
    "url", ["sqlite:///x", "postgresql://ada:${PW}@db/shop", "postgresql+psycopg://db/x", "${URL}"]
)
def test_the_databases_that_take_results_may_be_named(url):
    assert load_sink({"kind": "sql_sink", "url": url, "table": "t"}).url == url


def test_what_is_said_of_sinks_calls_them_so(light):
    spec = {"kind": "sql_sink", "url": "postgresql://ada:secret@db/shop", "table": "t"}
    with pytest.raises(InvalidInput, match=r"^'a b' cannot name a sink;"):
        light.set_sink("a b", {**spec, "url": "sqlite:///x"})
    with pytest.raises(InvalidInput, match=r"^the sink 'results' holds a password;"):
        light.set_sink("results", spec)
    with pytest.raises(InvalidInput, match=r"^'a b' cannot name a source;"):
        light.set_source("a b", {"kind": "parquet", "path": "x"})


def test_requests_only_name_sinks(light):
    light.set_source("units", {"kind": "redis", "url": "redis://127.0.0.1:1/0", "key": "unit:{device}"})

    async def main():
        async with process(light) as (deferred, _):
            for name in ("/tmp/x", "http://127.0.0.1/", "nothing", "units", "x" * 200):
                with pytest.raises(NotFound, match=r"there is no sink '.+; see `shoal sinks list`"):
                    await accepted(deferred, request(), context(), Wishes(sink=name))
        return light.predictions.listed()

    assert asyncio.run(main()) == []
