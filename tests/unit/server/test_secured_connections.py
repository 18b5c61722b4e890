"""TLS on the real acceptor in the loop that serves: who is slow, misled or rude costs only itself."""

import asyncio
import contextlib
import logging
import socket
import ssl
import time

import pytest
import uvloop
from stack_world import world

from shoal.server import acceptor
from shoal.server.certificates import Certificates
from shoal.server.options import Limits, TlsFiles
from tests.certificates import der, key, pem, put, trusting

INFER = "/v2/models/pumps/infer"
FILES = TlsFiles(certificate=str(pem("server")), key=str(key("server")))
HOUR_S = 3600.0
QUICK = Limits(header_s=0.4, body_s=0.4, idle_s=0.6)


def run(work):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def secured(limits=None, files=FILES):
    return world(limits=limits, certificates=Certificates(files))


async def connect(here, context=None):
    return await asyncio.open_connection("127.0.0.1", here.port, ssl=context or trusting())


async def said(reader, patience_s=60):
    """All that comes until the other side hangs up."""
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(), patience_s)
    return b""


def head(extra=""):
    return f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\n{extra}\r\n".encode()


def test_requests_are_answered_and_know_that_they_are_secured():
    async def work():
        async with secured() as here:
            answers = await asyncio.gather(*(here.client.post(INFER, content=b"%d" % n) for n in range(40)))
            assert [answer.content for answer in answers] == [b"%d" % n for n in range(40)]
            assert {scope["scheme"] for scope in here.echo.scopes} == {"https"}
            assert {scope["client"][0] for scope in here.echo.scopes} == {"127.0.0.1"}

    run(work)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_request_sent_with_the_handshake_is_not_lost(version):
    async def work():
        context = trusting()
        context.minimum_version = context.maximum_version = version
        async with secured() as here:
            for _ in range(20):
                reader, writer = await connect(here, context)
                writer.write(head("content-length: 200000\r\nconnection: close\r\n") + b"x" * 200_000)
                assert (await said(reader)).endswith(b"\r\n\r\n" + b"x" * 200_000)
                writer.close()

    run(work)


def test_old_versions_are_not_spoken():
    async def work():
        context = trusting()
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        async with secured() as here:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await connect(here, context)

    run(work)


def test_plain_http_is_told_what_is_spoken():
    async def work():
        async with secured() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(head("content-length: 2\r\n") + b"{}")
            answer = await said(reader)
            writer.close()
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"https://" in answer
            assert not here.echo.scopes

    run(work)


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_who_does_not_finish_the_handshake_is_hung_up_on(sent):
    async def work():
        async with secured(Limits(handshake_s=0.4, header_s=HOUR_S, body_s=HOUR_S, idle_s=HOUR_S)) as here:
            began = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(sent)
            assert await said(reader) == b""
            assert time.monotonic() - began > 0.3
            writer.close()
            assert here.http.connections == 0

    run(work)


def test_nonsense_instead_of_a_handshake_is_hung_up_on_and_logged_once(caplog, monkeypatch):
    monkeypatch.setattr(acceptor, "_SWEEP_S", 3600.0)  # looked at below, when all five have been hung up on

    async def work():
        async with secured() as here:
            for _ in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
                writer.write(b"\x16" + b"nonsense" * 10)
                await said(reader)
                writer.close()
            here.http._failed_handshakes.tell(time.monotonic())
            assert (await here.client.post(INFER)).status_code == 200

    with caplog.at_level(logging.WARNING, "shoal.server"):
        run(work)
    assert caplog.messages == ["5 TLS handshakes have failed, the last one by WRONG_VERSION_NUMBER"]


def test_many_unfinished_handshakes_do_not_keep_others_out():
    async def work():
        async with secured(Limits(connections=200, handshake_s=60)) as here:
            idle = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(400)]
            for _, writer in idle[::2]:
                writer.write(b"\x16\x03\x01")
            for _ in range(5):
                answer = await here.client.post(INFER, content=b"{}", headers={"connection": "close"})
                assert answer.status_code == 200
            assert here.http.connections <= 201
            for _, writer in idle:
                writer.close()

    run(work)


def test_many_idle_connections_do_not_keep_others_out():
    async def work():
        async with secured(Limits(connections=50)) as here:
            idle = [await connect(here) for _ in range(120)]
            for _ in range(3):
                answer = await here.client.post(INFER, content=b"{}", headers={"connection": "close"})
                assert answer.status_code == 200
            assert here.http.connections <= 51
            for _, writer in idle:
                writer.transport.abort()

    run(work)


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v2/mod", head("content-length: 10\r\n") + b"abc"],
)
def test_a_client_that_keeps_us_waiting_is_told_and_hung_up_on(sent):
    async def work():
        async with secured(QUICK) as here:
            reader, writer = await connect(here)
            writer.write(sent)
            assert (await said(reader)).startswith(b"HTTP/1.1 408")
            writer.close()

    run(work)


class Rude:
    """A client that shakes hands, asks once, and then neither reads nor says goodbye."""

    def __init__(self, port, asked=b""):
        self.plain = socket.create_connection(("127.0.0.1", port))
        self.plain.settimeout(10)
        self.secured = trusting().wrap_socket(
            self.plain, server_hostname="localhost", do_handshake_on_connect=True, suppress_ragged_eofs=False
        )
        if asked:
            self.secured.sendall(asked)
            self.secured.recv(65536)


def test_an_idle_client_that_does_not_say_goodbye_is_gone_all_the_same():
    async def work():
        async with secured(Limits(body_s=HOUR_S)) as here:  # and as long for a goodbye, as far as the loop knows
            rude = await asyncio.to_thread(Rude, here.port, head("content-length: 2\r\n") + b"{}")
            assert here.http.connections == 1
            here.http._limits = Limits(idle_s=0.6, handshake_s=0.4)  # from here on, for a handshake may take long
            async with asyncio.timeout(60):
                while here.http.connections:
                    await asyncio.sleep(0.05)
            rude.secured.close()

    run(work)


def test_the_end_does_not_wait_for_clients_that_do_not_say_goodbye():
    async def work():
        async with secured(Limits(handshake_s=HOUR_S, body_s=HOUR_S)) as here:  # and as long for a goodbye
            asked = head("content-length: 2\r\n") + b"{}"
            rude = [await asyncio.to_thread(Rude, here.port, asked) for _ in range(5)]
            half = socket.create_connection(("127.0.0.1", here.port))
            half.sendall(b"\x16\x03\x01")
            await asyncio.sleep(0.1)
            here.traffic.drain()
            here.http.stop_accepting()
            assert await here.http.finish(time.monotonic() + 60)
            half.close()
            for one in rude:
                one.secured.close()

    run(work)


def test_a_slow_reader_gets_the_rest_of_an_answer_though_the_connection_is_being_closed():
    body = bytes(range(256)) * 60_000

    async def work():
        async with secured(Limits(body_s=200)) as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port, ssl=trusting(), limit=2**14)
            writer.write(head(f"content-length: {len(body)}\r\nconnection: close\r\n") + body)
            got = bytearray()
            while chunk := await asyncio.wait_for(reader.read(2**18), 10):
                got += chunk
                await asyncio.sleep(0.02)
            writer.close()
            assert bytes(got).partition(b"\r\n\r\n")[2] == body

    run(work)


def test_a_replaced_certificate_is_shown_to_new_connections_and_old_ones_go_on(tmp_path):
    certificate, its_key = put(tmp_path, "server")

    async def shown(here):
        _, writer = await connect(here)
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return found

    async def work():
        certificates = Certificates(TlsFiles(certificate=str(certificate), key=str(its_key)))
        async with world(certificates=certificates) as here:
            reader, writer = await connect(here)
            assert await shown(here) == der("server")
            put(tmp_path, "renewed")
            certificates.refresh()
            assert await shown(here) == der("renewed")
            writer.write(head("content-length: 2\r\n") + b"{}")
            assert b"200" in await reader.readuntil(b"{}")
            writer.close()

    run(work)


@pytest.mark.parametrize(("shown", "served"), [(None, False), ("stranger", False), ("client", True)])
def test_where_clients_have_to_show_a_certificate_only_those_are_served(shown, served):
    files = TlsFiles(certificate=FILES.certificate, key=FILES.key, client_ca=str(pem("ca")))

    async def work():
        async with secured(files=files) as here:
            try:
                reader, writer = await connect(here, trusting(certificate=shown))
                writer.write(head("content-length: 2\r\nconnection: close\r\n") + b"{}")
                answer = await said(reader)
                writer.close()
            except (ssl.SSLError, ConnectionError):
                answer = b""
            assert answer.startswith(b"HTTP/1.1 200") is served
            assert len(here.echo.scopes) == served

    run(work)
