import asyncio
import contextlib
import gc
import re
import socket
import time
from types import SimpleNamespace

import pytest
import uvloop
from stack_world import world

from shoal.server import acceptor, connections
from shoal.server.connections import Connection
from shoal.server.exchanges import Exchange
from shoal.server.options import Limits

INFER = "/v2/models/pumps/infer"
QUICK = Limits(header_s=0.3, body_s=0.3, idle_s=1, header_bytes=2000)


async def said(reader):
    """All that comes until the other side hangs up."""
    return await asyncio.wait_for(reader.read(), 10)


def head(extra=""):
    return f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\n{extra}\r\n".encode()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b"408"),
        (b"POST /v2/mod", b"408"),
        (b"POST / HTTP/1.1\r\nhost: loc", b"408"),
        (head("content-length: 10\r\n") + b"abc", b"408"),
        (head("transfer-encoding: chunked\r\n") + b"3\r\nabc\r\n", b"408"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n", b"400"),
        (head("content-length: 5\r\ntransfer-encoding: chunked\r\n"), b"400"),
        (head("content-length: 1\r\ncontent-length: 2\r\n"), b"400"),
    ],
)
def test_a_client_that_keeps_us_waiting_or_talks_nonsense_is_hung_up_on(sent, status):
    async def run():
        async with world(limits=QUICK) as here:
            reader, writer = await here.connect()
            writer.write(sent)
            answer = await said(reader)
            writer.close()
        assert answer.startswith(b"HTTP/1.1 " + status), answer
        assert b'{"error":' in answer

    asyncio.run(run())


def test_a_head_without_end_is_refused():
    async def run():
        async with world(limits=Limits(header_bytes=2000)) as here:
            reader, writer = await here.connect()
            told = asyncio.create_task(reader.read(65536))
            writer.write(b"GET /v2 HTTP/1.1\r\nhost: localhost\r\n")
            for number in range(1000):
                writer.write(f"x-{number}: {'y' * 60}\r\n".encode())
                await asyncio.sleep(0.01)
                if told.done():
                    break
            assert b"431" in (await told).split(b"\r\n")[0]
            assert number < 100
            writer.close()

    asyncio.run(run())


LIMIT = 64 * 1024


def of_size(size):
    """A request whose head has so many bytes, but for a few, all of them in a header."""
    return head(f"content-length: 0\r\nx-more: {'y' * (size - 100)}\r\n")


LARGE = {
    "a header": of_size(LIMIT + 4000),
    "many headers": head("".join(f"x-{number}: {'y' * 60}\r\n" for number in range(1000))),
    "a path": f"GET /v2/{'y' * (LIMIT + 4000)} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(),
    "a query": f"GET /v2?x={'y' * (LIMIT + 400)} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(),
    "a query of the very limit": f"GET /v2?{'y' * (LIMIT - 4)} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(),
    "a path and a header": f"GET /{'y' * (LIMIT // 2)} HTTP/1.1\r\nhost: localhost\r\nx: "
    f"{'y' * (LIMIT // 2)}\r\n\r\n".encode(),
}


@pytest.mark.parametrize("piece", [1_000_000, 60_000, 20_000])
@pytest.mark.parametrize("before", [b"", head("content-length: 2\r\n") + b"{}"], ids=["alone", "after another"])
@pytest.mark.parametrize("large", LARGE.values(), ids=LARGE)
def test_a_head_that_is_too_large_is_refused_however_it_comes(large, before, piece):
    async def run():
        async with world() as here:
            reader, writer = await here.connect()
            if before:
                writer.write(before)
                assert b"200" in (await asyncio.wait_for(reader.readuntil(b"{}"), 10)).split(b"\r\n")[0]
            told = asyncio.create_task(said(reader))
            for start in range(0, len(large), piece):
                writer.write(large[start : start + piece])
                await asyncio.sleep(0.01)
            assert (await told).startswith(b"HTTP/1.1 431 ")
            writer.close()
        assert len(here.echo.scopes) == bool(before)

    asyncio.run(run())


def test_a_large_head_is_taken_up_to_the_limit_and_bodies_do_not_count():
    async def run():
        async with world() as here:
            reader, writer = await here.connect()
            body = head("content-length: 300000\r\n") + b"x" * 300_000
            for request in (of_size(LIMIT - 100), body + of_size(LIMIT - 100), body, of_size(LIMIT - 100)):
                for start in range(0, len(request), 50_000):
                    writer.write(request[start : start + 50_000])
                    await asyncio.sleep(0.01)
            got = b""
            while got.count(b"HTTP/1.1 200") < 5:
                got += await asyncio.wait_for(reader.read(65536), 10)
            assert b"431" not in got
            writer.write(of_size(LIMIT + 100))
            while b"HTTP/1.1 431" not in got:
                piece = await asyncio.wait_for(reader.read(65536), 10)
                assert piece
                got += piece
            writer.close()

    asyncio.run(run())


def test_a_client_that_sends_byte_by_byte_cannot_stay():
    async def run():
        async with world(limits=QUICK) as here:
            reader, writer = await here.connect()
            told = asyncio.create_task(said(reader))
            for byte in head():
                with contextlib.suppress(ConnectionError):
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.03)
                if told.done():
                    break
            answer = await told
            writer.close()
        assert b"408" in answer.split(b"\r\n")[0]

    asyncio.run(run())


async def send_on(writer, seconds):
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        writer.write(f"GET /v2 HTTP/1.1\r\nx-more: {'y' * 2000}\r\n".encode())
        await writer.drain()
        await asyncio.sleep(0.01)


def test_who_goes_on_sending_hears_why_it_was_refused(monkeypatch):
    monkeypatch.setattr(connections, "_LINGER_S", 600.0)  # however long it takes to send some

    async def run():
        async with world(limits=Limits(header_bytes=2000)) as here:
            reader, writer = await here.connect()
            await send_on(writer, 0.2)  # without reading
            assert b"431" in (await asyncio.wait_for(reader.readuntil(b"}"), 5)).split(b"\r\n")[0]
            await send_on(writer, 0.2)
            writer.close()

    asyncio.run(run())


def test_who_goes_on_sending_after_it_was_refused_cannot_stay():
    async def run():
        async with world(limits=Limits(header_bytes=2000)) as here:
            _, writer = await here.connect()
            with pytest.raises(ConnectionError):
                await send_on(writer, 60)
            writer.close()
            assert here.http.connections == 0

    asyncio.run(run())


def test_a_request_whose_body_took_too_long_is_over_for_who_works_on_it():
    async def run():
        async with world(limits=QUICK) as here:
            reader, writer = await here.connect()
            writer.write(head("content-length: 10\r\nexpect: 100-continue\r\n") + b"abc")
            assert b" 408 " in await said(reader)
            while here.http._state.tasks:
                await asyncio.sleep(0.01)
            writer.write(b"defghij" + head("content-length: 1\r\n") + b"x")
            assert await said(reader) == b""
            writer.close()
        assert len(here.echo.scopes) == 1

    asyncio.run(run())


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (head("transfer-encoding: chunked\r\n") + b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 4000 + b"\r\n\r\n", b"431"),
    ],
)
def test_requests_that_came_whole_are_answered_before_what_follows_is_refused(count, rest, status, caplog):
    async def run():
        async with world(limits=Limits(header_bytes=2000)) as here:
            here.echo.may.clear()
            reader, writer = await here.connect()
            writer.write((head("content-length: 1\r\n") + b"x") * count + rest)
            await here.echo.entered.wait()
            here.echo.may.set()
            answer = await said(reader)
            writer.close()
        return re.findall(rb"HTTP/1.1 (\d+)", answer)

    assert asyncio.run(run()) == [*[b"200"] * count, status]
    assert "Traceback" not in caplog.text


def test_an_idle_connection_is_closed_and_one_that_is_used_is_not(monkeypatch):
    now_s = time.monotonic()  # moved by hand: for the sweep no time passes that the test does not mean
    monkeypatch.setattr(acceptor, "time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr(acceptor, "_SWEEP_S", 0.01)

    async def run():
        nonlocal now_s
        async with world(limits=QUICK) as here:
            reader, writer = await here.connect()
            for _ in range(4):  # longer together than a connection may idle
                writer.write(head("content-length: 2\r\n") + b"{}")
                assert b"200" in await reader.readuntil(b"{}")
                await asyncio.sleep(0.1)  # for the sweep to look
                now_s += 0.8 * QUICK.idle_s
                await asyncio.sleep(0.1)
            assert here.http.connections == 1
            now_s += 0.4 * QUICK.idle_s
            assert await said(reader) == b""
            writer.close()

    asyncio.run(run())


def test_requests_sent_at_once_on_one_connection_are_answered_in_order():
    async def run():
        async with world() as here:
            reader, writer = await here.connect()
            writer.write(b"".join(head(f"content-length: 1\r\nx-request-id: {n}\r\n") + b"%d" % n for n in range(5)))
            got = b""
            while got.count(b"HTTP/1.1 200") < 5 or not got.endswith(b"4"):
                got += await asyncio.wait_for(reader.read(65536), 5)
            writer.close()
        assert [got.index(b"x-request-id: %d" % n) for n in range(5)] == sorted(
            got.index(b"x-request-id: %d" % n) for n in range(5)
        )

    asyncio.run(run())


def test_many_idle_connections_do_not_keep_others_out():
    async def run():
        async with world(limits=Limits(connections=200)) as here:
            idle = [await here.connect() for _ in range(400)]
            for _ in range(3):
                answer = await here.client.post(INFER, content=b"{}", headers={"connection": "close"})
                assert answer.status_code == 200
            assert here.http.connections <= 201
            for _, writer in idle:
                writer.close()

    asyncio.run(run())


def test_closing_the_door_leaves_nobody_standing_in_it():
    async def run():
        async with world() as here:
            # Connected for the system, not yet accepted by us: nothing of the loop runs in between.
            waiting = [socket.create_connection(("127.0.0.1", here.port)) for _ in range(20)]
            for one in waiting:
                one.setblocking(False)
                one.send(head("content-length: 2\r\n") + b"{}")
            here.traffic.drain()
            here.http.stop_accepting()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", here.port))
            loop = asyncio.get_running_loop()
            answers = await asyncio.gather(*(loop.sock_recv(one, 65536) for one in waiting))
            assert await here.http.finish(loop.time() + 10)
            for one in waiting:
                one.close()
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)

    asyncio.run(run())


def test_a_client_that_hangs_up_costs_only_itself():
    async def run():
        async with world() as here:
            here.echo.may.clear()
            _, writer = await here.connect()
            writer.write(head("content-length: 2\r\n") + b"{")
            await here.echo.entered.wait()
            writer.transport.abort()
            here.echo.may.set()
            assert (await here.client.post(INFER, content=b"{}")).status_code == 200
            for _ in range(100):
                if not here.stack.under_way:
                    break
                await asyncio.sleep(0.02)
            assert len(here.stack.under_way) == 0

    asyncio.run(run())


WHOLE = head("content-length: 1\r\n") + b"x"


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"POST /v2/mod",
        head("content-length: 10\r\n") + b"abc",
        head("content-length: 200000\r\n") + b"x" * 100_000,
    ],
    ids=["nothing", "part of a head", "part of a body", "part of a large body"],
)
def test_a_client_that_sends_nothing_more_hears_the_answers_to_what_came_whole(rest, count, loop, caplog):
    async def run():
        async with world() as here:
            here.echo.may.clear()
            reader, writer = await here.connect()
            writer.write(WHOLE * count + rest)
            writer.write_eof()
            if count:
                await here.echo.entered.wait()
                await asyncio.sleep(0.1)  # for the end to be heard
            here.echo.may.set()
            answer = await said(reader)
            while here.http.connections or here.http._state.tasks:
                await asyncio.sleep(0.01)
            writer.close()
        return re.findall(rb"HTTP/1.1 (\d+)", answer)

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(run()) == [b"200"] * count
    assert not caplog.records


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_client_that_sends_nothing_more_may_have_been_answered_before(loop):
    async def run():
        async with world() as here:
            reader, writer = await here.connect()
            writer.write(WHOLE)
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\nx"), 10)
            writer.write_eof()
            assert await said(reader) == b""
            writer.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


def test_who_is_refused_while_still_sending_hears_why_and_may_go_on():
    """The rest of a body is thrown away; it is neither answered again nor taken for the head of another request."""

    async def run():
        async with world() as here:
            reader, writer = await here.connect()
            writer.write(f"POST /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: {3_000_000}\r\n\r\n".encode())
            first = await asyncio.wait_for(reader.readuntil(b"}"), 10)
            for _ in range(60):
                writer.write(b"x" * 50_000)
                await writer.drain()
            writer.write(head("content-length: 2\r\n") + b"{}")
            second = await asyncio.wait_for(reader.readuntil(b"{}"), 10)
            writer.close()
        assert first.startswith(b"HTTP/1.1 404")
        assert second.startswith(b"HTTP/1.1 200")

    asyncio.run(run())


def test_who_is_refused_and_sends_without_end_is_hung_up_on():
    async def run():
        async with world(limits=Limits(body_bytes=10_000)) as here:
            reader, writer = await here.connect()
            writer.write(head("transfer-encoding: chunked\r\n"))
            answer, sent = b"", 0
            with contextlib.suppress(ConnectionError):
                for _ in range(10_000):
                    writer.write(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
                    await writer.drain()
                    sent += 10_000
            with contextlib.suppress(ConnectionError):
                answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
        assert sent < 10_000 * 10_000
        assert b"431" not in answer
        assert answer.count(b"HTTP/1.1") <= 1

    asyncio.run(run())


def test_who_is_refused_and_stops_sending_is_hung_up_on():
    async def run():
        async with world(limits=QUICK) as here:
            reader, writer = await here.connect()
            writer.write(b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
            answer = await said(reader)
            writer.close()
        assert answer.startswith(b"HTTP/1.1 404")
        assert answer.count(b"HTTP/1.1") == 1

    asyncio.run(run())


async def gone_without_reading(here, count):
    """Clients that ask again and again, read nothing, and go; when nothing of them is under way any more."""
    body = b"x" * 300_000
    asked = head(f"content-length: {len(body)}\r\n") + body
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", here.port))
        client.setblocking(False)
        left, full = asked * 100, 0
        while full < 20:  # until the server reads no more
            try:
                left, full = left[client.send(left) :], 0
            except BlockingIOError:
                full += 1
            await asyncio.sleep(0.005)
        client.close()
    while here.http.connections or here.http._state.tasks:
        await asyncio.sleep(0.01)
    here.echo.scopes.clear()


def test_clients_that_go_without_reading_leave_nothing_for_the_collector(caplog):
    async def run():
        async with world() as here:
            await gone_without_reading(here, 1)  # what is only made once
            gc.collect()
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                await gone_without_reading(here, 3)
                gc.collect()
                return [type(one) for one in gc.garbage if isinstance(one, Connection | Exchange)]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == []
    assert not caplog.records
