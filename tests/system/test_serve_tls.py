"""A server behind its own certificate: every port, its discovery, its clients, and what happens when it is renewed."""

import asyncio
import re
import shutil
import socket
import ssl

import grpc
import httpx
import polars as pl
import pytest
from serve_process import answer_of, command, get, make_home, post, request, serving, wait_until

import shoal
from shoal.errors import InvalidInput, StorageError
from shoal.security.permissions import Role
from shoal.server.grpc import inference_pb2 as pb
from shoal.server.grpc.service import SERVICE
from tests.certificates import FOLDER, der, key, pem, put, trusting

INFER = "/v2/models/pumps/infer"
PATIENCE_S = 60
OURS = ("--tls-certificate", str(pem("server")), "--tls-key", str(key("server")))
ROWS = {"device": ["d1", "d3"], "a": [1.0, 0.0], "b": [2.0, 5.0]}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template") / "home"
    make_home(folder)
    return folder


@pytest.fixture
def home(template, tmp_path):
    shutil.copytree(template, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def server(template, tmp_path_factory):
    """A server that no test changes."""
    folder = tmp_path_factory.mktemp("secured")
    shutil.copytree(template, folder / "home")
    with serving(folder / "home", folder, "pumps", "--workers", "2", "--admin-port", "0", *OURS) as server:
        yield server


def port_of(url):
    return int(url.rpartition(":")[2])


def shown(port):
    """The certificate that a port shows now."""
    context = trusting()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return secured.getpeercert(binary_form=True)


def live(address, *, ca="ca", certificate=None):
    """Ask over gRPC whether the server lives."""
    own = (None, None) if certificate is None else (key(certificate).read_bytes(), pem(certificate).read_bytes())
    credentials = grpc.ssl_channel_credentials(pem(ca).read_bytes(), *own)

    async def ask():
        async with grpc.aio.secure_channel(address, credentials) as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/ServerLive",
                request_serializer=pb.ServerLiveRequest.SerializeToString,
                response_deserializer=pb.ServerLiveResponse.FromString,
            )
            return (await call(pb.ServerLiveRequest(), timeout=PATIENCE_S)).live

    return asyncio.run(ask())


def test_all_ports_are_secured_and_say_so(server):
    context = trusting()
    assert server.url.startswith("https://")
    assert server.admin_url.startswith("https://")
    with httpx.Client(base_url=server.url, verify=context, timeout=PATIENCE_S) as client:
        assert answer_of(client.post(INFER, json=request(device=3, a=1, b=2))) == ("1", pytest.approx(6))
    assert get(f"{server.admin_url}/metrics", verify=context).status_code == 200
    assert live(server.grpc)
    (found,) = wait_until(lambda: get(f"{server.url}/api/v1/services", verify=context).json())
    assert found["secured"]
    assert (found["url"], found["admin_url"], found["grpc_url"]) == (server.url, server.admin_url, server.grpc)
    assert found["fleets"][0]["metadata_url"].startswith("https://")


def test_who_trusts_nobody_or_somebody_else_gets_no_answer(server):
    for context in (ssl.create_default_context(), trusting("other_ca")):
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            get(f"{server.url}/v2", verify=context)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        live(server.grpc, ca="other_ca")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    with socket.create_connection(("127.0.0.1", port_of(server.grpc))) as plain:
        plain.settimeout(PATIENCE_S)
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while plain.recv(1000):
            pass
    assert [line for line in server.news().splitlines() if "andshake" in line] == []


@pytest.mark.parametrize("port", ["url", "admin_url"])
def test_plain_http_is_told_what_to_do(server, port):
    told = get(getattr(server, port).replace("https://", "http://") + "/v2")
    assert told.status_code == 400
    assert "https://" in told.json()["error"]


def test_a_client_connects_with_the_authority_or_by_the_environment(server, monkeypatch):
    async def ask():
        async with shoal.connect_async(server.url, ca=str(pem("ca"))) as client:
            return await (await client.fleet("pumps")).predict(ROWS)

    with shoal.connect(server.url, ca=pem("ca")) as client:
        expected = client.fleet("pumps").predict(ROWS)
    assert expected["prediction"].to_list() == pytest.approx([4, 8])
    assert asyncio.run(ask()).equals(expected)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem("ca")))
    with shoal.connect(server.url) as client:
        assert isinstance(client.fleet("pumps").predict(ROWS), pl.DataFrame)


def test_a_client_is_told_why_it_cannot_connect(server, tmp_path):
    plain = server.url.replace("https://", "http://")
    for url, more, said in [
        (server.url, {}, "give the authority .* ca=PATH"),
        (server.url, {"ca": pem("other_ca")}, "give the authority .* ca=PATH"),
    ]:
        with shoal.connect(url, **more) as client, pytest.raises(StorageError, match=said):
            client.fleets()
    with shoal.connect(plain) as client, pytest.raises(InvalidInput, match="https://"):
        client.fleets()
    with pytest.raises(InvalidInput, match="No such file"):
        shoal.connect(server.url, ca=tmp_path / "nothing.pem")
    with pytest.raises(InvalidInput, match="certificates in PEM"):
        shoal.connect(server.url, ca=key("server"))
    with pytest.raises(InvalidInput, match="its key cannot be used"):
        shoal.connect(server.url, ca=pem("ca"), certificate=(pem("client"), key("server")))


def test_a_client_is_told_what_is_wrong_with_the_certificate(home, tmp_path):
    with serving(home, tmp_path, "--no-grpc", "--tls-certificate", str(pem("elsewhere")), *OURS[2:]) as server:
        with shoal.connect(server.url, ca=pem("ca")) as client, pytest.raises(StorageError, match="one of the names"):
            client.fleets()
        assert "The certificate is not for 127.0.0.1" in server.news()
    with serving(home, tmp_path / "plain", "--no-grpc") as server:
        secured = server.url.replace("http://", "https://")
        with shoal.connect(secured, ca=pem("ca")) as client, pytest.raises(StorageError, match="write http://"):
            client.fleets()


def test_from_a_secured_server_on_only_such_are_asked(home, tmp_path):
    with serving(home, tmp_path / "one", "pumps", "--no-grpc", *OURS) as one:
        with serving(home, tmp_path / "two", "pumps", "--no-grpc", "--access-log", "1") as two:
            with shoal.connect(one.url, ca=pem("ca")) as client:
                wait_until(lambda: len(client.services(name="pumps")) == 2)
                fleet = client.fleet("pumps")
                for _ in range(6):
                    assert fleet.predict(ROWS).height == 2
            assert two.end() == 0
        assert "shoal.access" not in two.news()


def test_a_replaced_certificate_is_taken_without_a_restart(home, tmp_path):
    certificate, its_key = put(tmp_path, "server")
    line = ("--workers", "2", "--admin-port", "0", "--tls-certificate", str(certificate), "--tls-key", str(its_key))
    with serving(home, tmp_path / "log", "pumps", *line) as server:
        ports = [port_of(server.url), port_of(server.admin_url), port_of(server.grpc)]
        workers = server.workers()
        assert [shown(port) for port in ports] == [der("server")] * 3
        with httpx.Client(base_url=server.url, verify=trusting(), timeout=PATIENCE_S) as client:
            assert client.post(INFER, json=request()).status_code == 200
            put(tmp_path, "renewed")
            for port in ports:
                wait_until(lambda port=port: all(shown(port) == der("renewed") for _ in range(8)))
            # Each process: what comes next must not be the first that one of them sees.
            renewed = "the certificate was replaced; the new one ends at 2124"
            wait_until(lambda: server.news().count(renewed) == 3)
            assert client.post(INFER, json=request()).status_code == 200
        assert live(server.grpc)
        put(tmp_path, "expired", "server")
        kept = re.compile("the old one is used on: .*expired")
        wait_until(lambda: len(kept.findall(server.news())) == 3)
        assert [shown(port) for port in ports] == [der("renewed")] * 3
        assert server.workers() == workers
        assert server.end() == 0
    assert server.news().count(renewed) == len(kept.findall(server.news())) == 3


def test_where_clients_have_to_show_a_certificate_only_those_are_served(home, tmp_path):
    with serving(home, tmp_path, "pumps", *OURS, "--tls-client-ca", str(pem("ca"))) as server:
        with shoal.connect(server.url, ca=pem("ca"), certificate=(pem("client"), key("client"))) as client:
            assert client.fleet("pumps").predict(ROWS).height == 2
        assert live(server.grpc, certificate="client")
        for other in (None, "stranger"):
            own = None if other is None else (pem(other), key(other))
            with (
                shoal.connect(server.url, ca=pem("ca"), certificate=own) as client,
                pytest.raises(StorageError, match="certificate"),
            ):
                client.fleets()
            with pytest.raises(grpc.aio.AioRpcError):
                live(server.grpc, certificate=other)
        wait_until(lambda: "TLS handshakes have failed, the last one by" in server.news())
        assert server.end() == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((pem("server"), key("renewed")), "does not belong to the certificate"),
        ((pem("expired"), key("server")), "has expired; renew it"),
        ((FOLDER / "nothing.pem", key("server")), "cannot be read"),
        ((pem("server"), key("encrypted")), "without a passphrase"),
        ((pem("server"), None), "give both --tls-certificate and --tls-key"),
        ((None, key("server")), "give both --tls-certificate and --tls-key"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(home, options, said):
    given = [
        part for name, path in zip(OURS[::2], options, strict=True) if path is not None for part in (name, str(path))
    ]
    refused = command(home, "serve", "--port", "0", "--grpc-port", "0", *given)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_certificate_is_no_key(home, tmp_path):
    refused = command(home, "serve", "--host", "0.0.0.0", "--port", "0", "--grpc-port", "0", *OURS)
    assert refused.returncode == 1
    assert "shoal keys create" in refused.stderr
    with shoal.open(home) as workspace:
        own = workspace.create_key("app", Role.PREDICTOR).text
    with serving(home, tmp_path, "pumps", "--no-grpc", *OURS) as server:
        assert post(server.url + INFER, json=request(), verify=trusting()).status_code == 401
        with shoal.connect(server.url, ca=pem("ca"), api_key=own) as client:
            assert client.fleet("pumps").predict(ROWS).height == 2


def test_slow_handshakes_do_not_tie_up_a_server(server):
    ports = [port_of(server.url)] * 150 + [port_of(server.grpc)] * 150
    slow = [socket.create_connection(("127.0.0.1", port)) for port in ports]
    for one in slow[::2]:
        one.sendall(b"\x16\x03\x01")
    with httpx.Client(base_url=server.url, verify=trusting(), timeout=PATIENCE_S) as client:
        assert client.post(INFER, json=request()).status_code == 200
    assert live(server.grpc)
    for one in slow:
        one.settimeout(25)
        assert one.recv(100) == b""  # neither server waits for longer than ten seconds
        one.close()
