"""How a server begins, goes on and ends: real processes, signals and sockets."""

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import grpc
import httpx
import pytest
from serve_load import Load
from serve_process import (
    answer_of,
    command,
    get,
    is_alive,
    make_home,
    post,
    request,
    serving,
    starting,
    wait_until,
    with_constants,
)

import shoal
from shoal.security.permissions import Role
from shoal.server.calls import SERVICE
from shoal.server.grpc import inference_pb2 as pb

INFER = "/v2/models/pumps/infer"
PATIENCE_S = 60


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template") / "home"
    make_home(folder)
    return folder


@pytest.fixture
def home(template, tmp_path):
    shutil.copytree(template, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def unhurried(monkeypatch):
    """What servers do last is not given up after moments, so that it is done where somebody is held up, too."""
    times = {
        "shoal.server.worker._GIVEN_UP_S": 30.0,
        "shoal.server.supervisor._LAST_GRACE_S": 40.0,
        "shoal.telemetry.traces._TIMEOUT_S": 30.0,
    }
    monkeypatch.setattr("serve_process.SHOAL", with_constants(times))


def test_a_server_says_that_it_is_open_and_answers(home, tmp_path):
    with serving(home, tmp_path, "pumps") as server:
        with server.client() as client:
            assert client.get("/v2/health/ready").status_code == 200
            assert client.get("/health/ready").json() == {"live": True, "ready": True, "draining": False}
            version, prediction = answer_of(client.post(INFER, json=request(device=3, a=1, b=2)))
        assert server.end() == 0
        news = server.news()
    assert version == "1"
    assert prediction == pytest.approx(6)
    assert "No API keys" in news
    assert re.search(r"Ready: REST on http://127.0.0.1:\d+, gRPC on 127.0.0.1:\d+. Serving pumps:1.", news)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_no_request(home, tmp_path, number):
    with serving(home, tmp_path, "pumps", "--workers", "2") as server, Load(server.url) as load:
        workers = server.workers()
        wait_until(lambda: len(load.answered) > 200)
        code = server.end(number)
        wait_until(lambda: load.refused > 0)
        load.stop()
    assert code == 0
    assert load.lost == []
    assert len(load.late) <= load.clients
    assert {status for status, _ in load.answered} == {200}
    assert not any(is_alive(pid) for pid in workers)


def test_readiness_goes_at_every_door_before_they_are_closed(home, tmp_path, monkeypatch):
    # It is asked six times before the doors are closed: too often for half a second, if somebody is held up.
    monkeypatch.setattr("serve_process.SHOAL", with_constants({"shoal.server.worker.LINGER_S": 5.0}))
    with (
        serving(home, tmp_path, "pumps") as server,
        server.client() as client,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        assert _ready(client, channel) == [True] * 4
        server.process.terminate()
        said = wait_until(lambda: (r := client.get("/v2/health/ready")).status_code == 503 and r)
        ready = _ready(client, channel)
        answered = client.post(INFER, json=request())
        assert server.process.wait(PATIENCE_S) == 0
    assert said.json() == {"error": "the server ends"}
    assert ready == [False] * 4
    assert answered.status_code == 200
    assert answered.headers["connection"] == "close"


def _ready(client, channel):
    """What the server and its fleet say over REST and over gRPC."""
    return [
        *(client.get(path).status_code == 200 for path in ("/v2/health/ready", "/v2/models/pumps/ready")),
        _called(channel, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready,
        _called(channel, "ModelReady", pb.ModelReadyRequest(name="pumps"), pb.ModelReadyResponse).ready,
    ]


@contextlib.contextmanager
def half_a_request(server):
    """A request whose body does not come."""
    with socket.create_connection(_address(server.url)) as slow:
        slow.settimeout(PATIENCE_S)
        head = "POST /v2/models/pumps/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        slow.sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
        wait_until(lambda: "under_way 2.0" in _metrics(server))  # it, and who asks for the metrics
        yield slow


def test_a_second_signal_ends_at_once(home, tmp_path):
    with serving(home, tmp_path, "pumps", "--drain-timeout", "60") as server, half_a_request(server):
        server.process.terminate()
        wait_until(lambda: not _answers(server))  # not ready any more, or its doors are closed
        assert server.process.poll() is None  # it waits for the body
        assert server.end() == 1
        assert "Traceback" not in server.news()


def test_a_second_signal_ends_at_once_also_when_it_comes_with_the_first(home, tmp_path):
    with serving(home, tmp_path, "pumps", "--drain-timeout", "600") as server, half_a_request(server):
        server.process.send_signal(signal.SIGSTOP)
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)
        assert server.end(signal.SIGCONT) == 1
        assert "Traceback" not in server.news()


@pytest.mark.usefixtures("unhurried")
def test_what_takes_longer_than_the_drain_timeout_is_cut_off_and_said(home, tmp_path):
    with serving(home, tmp_path, "pumps", "--drain-timeout", "1") as server, half_a_request(server) as slow:
        assert server.end() == 1
        said = slow.recv(65536)
    assert b" 504 " in said
    assert b"the server ends" in said


def test_what_comes_over_grpc_is_waited_for_and_cut_off_as_over_rest(home, tmp_path):
    """Somebody keeps the registry's file, so that an unload takes longer than the server waits."""
    with (
        serving(home, tmp_path, "pumps", "--drain-timeout", "1") as server,
        contextlib.closing(sqlite3.connect(home / "shoal.db", PATIENCE_S, isolation_level=None)) as other,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        other.execute("BEGIN IMMEDIATE")
        message = pb.RepositoryModelUnloadRequest(model_name="pumps")
        unload = channel.unary_unary(
            f"/{SERVICE}/RepositoryModelUnload",
            request_serializer=pb.RepositoryModelUnloadRequest.SerializeToString,
            response_deserializer=pb.RepositoryModelUnloadResponse.FromString,
        ).future(message)
        wait_until(lambda: "under_way 2.0" in _metrics(server))  # it, and who asks for the metrics
        assert server.end() == 1
        assert unload.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "the server ends" in unload.details()


def test_streams_that_wait_for_nothing_do_not_keep_a_server_from_ending(home, tmp_path):
    with (
        serving(home, tmp_path, "pumps", "--drain-timeout", str(10 * PATIENCE_S)) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        sent = queue.SimpleQueue()
        stream = channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )(iter(sent.get, None))
        sent.put(pb.ModelInferRequest(model_name="pumps"))
        assert "no inputs" in next(stream).error_message
        assert server.end() == 0
        assert stream.code() is grpc.StatusCode.UNAVAILABLE
        sent.put(None)


def test_the_time_of_a_request_is_limited_at_both_doors(home, tmp_path):
    """Somebody keeps the registry's file, so what has to write to it would wait for longer than a request may take."""
    with (
        serving(home, tmp_path, "pumps", "--request-timeout", "0.3") as server,
        server.client() as client,
        contextlib.closing(sqlite3.connect(home / "shoal.db", PATIENCE_S, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        over_rest = client.post("/v2/repository/models/pumps/unload")
        message = pb.RepositoryModelUnloadRequest(model_name="pumps")
        with pytest.raises(grpc.RpcError) as over_grpc:
            _grpc_call(server.grpc, "RepositoryModelUnload", message, pb.RepositoryModelUnloadResponse)
    assert over_rest.status_code == 504
    assert over_grpc.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert over_grpc.value.details() == over_rest.json()["error"]


def test_the_rows_of_a_request_are_limited_as_the_server_is_told(home, tmp_path):
    def asked(client, rows):
        document = request()
        for one in document["inputs"]:
            one |= {"shape": [rows], "data": one["data"] * rows}
        return client.post(INFER, json=document)

    with serving(home, tmp_path, "pumps", "--no-grpc", "--max-rows", "250000") as server, server.client() as client:
        many, more = asked(client, 250_000), asked(client, 250_001)
    assert (many.status_code, len(many.json()["outputs"][0]["data"])) == (200, 250_000)
    assert more.status_code == 413
    assert more.json()["error"] == "250001 rows in one request; send at most 250000 at a time"


def test_a_killed_worker_is_replaced_while_the_other_serves(home, tmp_path):
    with serving(home, tmp_path, "pumps", "--workers", "2", "--no-grpc") as server:
        before = server.workers()
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        with server.client() as client:
            for _ in range(20):  # a new connection each: those of the dead one are gone, the door is not
                assert post(server.url + INFER, json=request()).status_code == 200
            now = wait_until(
                lambda: len(server.workers()) == 2 and set(server.workers()) != set(before) and server.workers()
            )
            assert before[1] in now
            wait_until(lambda: "shoal_workers_ready 2.0" in client.get("/metrics").text)
        assert server.end() == 0
        news = server.news()
    assert "worker 0 ended (SIGKILL)" in news or "worker 1 ended (SIGKILL)" in news


def test_a_killed_supervisor_leaves_no_worker_behind(home, tmp_path):
    with serving(home, tmp_path, "pumps", "--workers", "2") as server:
        workers = server.workers()
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(is_alive(pid) for pid in workers))


def test_metrics_are_those_of_all_workers_and_survive_them(home, tmp_path):
    with serving(home, tmp_path, "pumps", "--workers", "2", "--no-grpc") as server:
        for _ in range(40):
            assert post(server.url + INFER, json=request()).status_code == 200
        wait_until(lambda: _counted(server) == 40)
        killed = server.workers()[0]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: killed not in server.workers() and len(server.workers()) == 2)
        wait_until(lambda: "shoal_workers_ready 2.0" in _metrics(server))
        assert _counted(server) == 40


def test_statistics_are_those_of_all_workers_and_survive_them(home, tmp_path):
    with shoal.open(home) as workspace:
        workspace.set_serving("pumps", {"cache": {"ttl_s": 600}})
    with serving(home, tmp_path, "pumps", "--workers", "2") as server:
        for device in (1, 2):
            for _ in range(15):  # a connection each; a worker scores each row once and remembers it
                assert post(server.url + INFER, json=request(device)).status_code == 200
        for _ in range(3):
            assert post(server.url + INFER, json={"inputs": []}).status_code == 400
        wait_until(lambda: _counted(server) == 30)  # so that the other worker knows it, and whoever takes one's place
        before = wait_until(lambda: _agreed(server))
        assert (before["success"], before["fail"], before["fail_ns"] > 0) == (30, 3, True)
        assert (before["cache_hit"] + before["cache_miss"], before["cache_miss"] in (2, 3, 4)) == (30, True)
        with grpc.insecure_channel(server.grpc) as channel:
            ask = channel.unary_unary(
                f"/{SERVICE}/ModelStatistics",
                request_serializer=pb.ModelStatisticsRequest.SerializeToString,
                response_deserializer=pb.ModelStatisticsResponse.FromString,
            )
            told = ask(pb.ModelStatisticsRequest(name="pumps"), timeout=PATIENCE_S).model_stats[0].inference_stats
        assert (told.success.count, told.cache_hit.count) == (30, before["cache_hit"])
        assert (told.fail.count, told.fail.ns) == (3, before["fail_ns"])
        killed = set(server.workers())
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(server.workers()) == 2 and not killed & set(server.workers()))
        wait_until(lambda: _answers(server) and "shoal_workers_ready 2.0" in _metrics(server))
        assert wait_until(lambda: _agreed(server)) == before


def _agreed(server):
    """What all workers tell, once each has heard of the others; they tell it once a second."""
    told = [_statistics(server) for _ in range(10)]
    is_all = (told[0].get("success"), told[0].get("fail")) == (30, 3)
    return told[0] if is_all and told == [told[0]] * 10 else None


def _statistics(server):
    found = get(server.url + "/v2/models/pumps/stats").json()["model_stats"]
    counts = {name: told["count"] for one in found for name, told in one["inference_stats"].items()}
    return counts | {"fail_ns": sum(one["inference_stats"]["fail"]["ns"] for one in found)}


def _answers(server):
    try:
        return get(server.url + "/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def _counted(server):
    pattern = r'shoal_request_seconds_count\{fleet="pumps",route="/v2/models/{model}/infer",status="200"\} (\S+)'
    return sum(map(float, re.findall(pattern, _metrics(server))))


def test_management_and_metrics_can_have_a_port_of_their_own(home, tmp_path):
    with serving(home, tmp_path, "pumps", "--admin-port", "0") as server:
        with server.client() as client:
            assert client.post(INFER, json=request()).status_code == 200
            assert client.get("/api/v1/fleets").status_code == 404
            assert client.get("/metrics").status_code == 404
        assert get(server.admin_url + "/api/v1/fleets").json()[0]["name"] == "pumps"
        refused = post(server.admin_url + INFER, json=request())
        said = f"there is no such route on this port; inference is at {server.url}"
        assert (refused.status_code, refused.json()["error"]) == (404, said)
        assert "are on the admin port" in get(server.url + "/api/v1/fleets").json()["error"]
        wait_until(lambda: 'fleet="pumps"' in get(server.admin_url + "/metrics").text)
        promoted = post(server.admin_url + "/api/v1/fleets/pumps/promote", json={"version": 2})
        assert promoted.status_code == 200
        with server.client() as client:
            wait_until(lambda: answer_of(client.post(INFER, json=request()))[0] == "2")
        assert server.end() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_without_keys_only_loopback_is_served(home, host):
    refused = command(home, "serve", "--host", host, "--port", "0", "--grpc-port", "0")
    assert refused.returncode == 1
    assert "shoal keys create" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_keys_reach_a_running_server(home, tmp_path):
    with serving(home, tmp_path, "pumps", "--no-grpc") as server:
        with server.client() as client:
            assert client.post(INFER, json=request()).status_code == 200
            made = command(home, "keys", "create", "shop", "--role", "predictor")
            key = made.stdout.strip()
            assert made.returncode == 0
            wait_until(lambda: client.post(INFER, json=request()).status_code == 401)
        with server.client(key) as client:
            assert client.post(INFER, json=request()).status_code == 200
            assert client.get("/metrics").status_code == 403
            rotated = command(home, "keys", "rotate", key.split("_")[1], "--overlap", "0s")
            wait_until(lambda: client.post(INFER, json=request()).status_code == 401)
        with server.client(rotated.stdout.strip()) as client:
            wait_until(lambda: client.post(INFER, json=request()).status_code == 200)
            assert command(home, "keys", "revoke", rotated.stdout.split("_")[1]).returncode == 0
            refused = wait_until(lambda: (r := client.post(INFER, json=request())).status_code == 401 and r)
        listed = command(home, "keys", "list")
    assert "was revoked" in refused.json()["error"]
    assert key not in listed.stdout
    assert listed.stdout.count("shop") == 2


#: Kernels take seconds to load where nothing is compiled; here it takes until a file is there.
SLOW_TO_START = """
import pathlib, sys, time
from shoal.cli import main
from shoal.serving import plane

def load():
    while not pathlib.Path({file!r}).exists():
        time.sleep(0.02)

plane.warm_kernels = load
main(sys.argv[1:])
"""


@contextlib.contextmanager
def kept_port():
    """A free port that nobody else gets meanwhile; a server may bind to it, for this socket does not listen."""
    with socket.socket() as keeper:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            keeper.setsockopt(socket.SOL_SOCKET, option, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


def test_while_a_server_starts_nobody_is_told_that_a_model_is_missing(home, tmp_path, monkeypatch):
    """It takes seconds, and a client takes 404 as final."""
    loaded = tmp_path / "loaded"
    monkeypatch.setattr("serve_process.SHOAL", [sys.executable, "-c", SLOW_TO_START.format(file=str(loaded))])
    told = []
    asked = ("/invocations", f"{INFER}/async", INFER)

    def watch():
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE_S) as client:
            while not told or told[-1] != 200:
                with contextlib.suppress(httpx.TransportError):
                    told.extend(client.post(path, json=request()).status_code for path in asked)
                    told.append(client.get("/v2/models/pumps").status_code)
                time.sleep(0.01)

    with kept_port() as port, starting(home, tmp_path, "--no-grpc", port=port) as server:
        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        wait_until(lambda: 503 in told)
        loaded.touch()
        server.wait()
        watching.join(PATIENCE_S)
    assert told[-1] == 200
    assert 503 in told
    assert 404 not in told
    assert told.count(400) <= 1  # /invocations does not take this body


def test_a_fleet_that_is_not_there_is_said_at_once(home):
    refused = command(home, "serve", "nothing", "--port", "0", "--grpc-port", "0")
    assert refused.returncode == 1
    assert "nothing" in refused.stderr.splitlines()[-1]
    assert refused.stderr.count("nothing") == refused.stderr.splitlines()[-1].count("nothing")  # said once
    assert "Traceback" not in refused.stderr


def test_ready_is_said_once_there_is_something_to_answer_with(home, tmp_path):
    """Without names a server waits for a fleet that can be opened; one that is to serve this very fleet ends."""
    blocks = {path: path.read_bytes() for path in (home / "store" / "blocks").iterdir()}
    for path, content in blocks.items():
        path.chmod(0o644)
        path.write_bytes(content[:-20] + bytes(20))
    with starting(home, tmp_path, "--no-grpc", "--workers", "2") as server:
        wait_until(lambda: server.news().count("; nothing answers for it") == 2)  # each worker has looked
        wait_until(lambda: "not ready: pumps: snapshot 1 cannot be served" in server.news())
        named = command(home, "serve", "pumps", "--port", "0", "--no-grpc")
        assert "Ready" not in server.news()
        assert not (tmp_path / "ready.json").exists()
        for path, content in blocks.items():
            path.write_bytes(content)
        server.wait()
        with server.client() as client:
            assert client.get("/v2/health/ready").status_code == 200
            assert client.post(INFER, json=request()).status_code == 200
        assert server.end() == 0
        news = server.news()
    assert news.count("not ready: ") == 1
    assert "Serving pumps:1" in news
    assert named.returncode == 1
    assert "snapshot 1 cannot be served" in named.stderr


@pytest.mark.parametrize("line", [["--url", "notaurl"], ["--otlp-endpoint", "notaurl"], ["--category", "air", "pumps"]])
def test_an_option_that_cannot_be_meant_is_said_at_once(home, line):
    refused = command(home, "serve", *line, "--port", "0", "--no-grpc")
    assert refused.returncode == 1
    assert line[0] in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("option", ["--port", "--grpc-port", "--admin-port"])
def test_a_port_in_use_is_said_at_once(home, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        free = [text for one in {"--port", "--grpc-port"} - {option} for text in (one, "0")]
        refused = command(home, "serve", option, str(port), *free)
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in refused.stderr
    assert f"choose another {option} or --host" in refused.stderr


def test_two_servers_never_share_a_port_of_grpc(home, tmp_path):
    """Workers of one server share it, so the system would let another server's in as well."""
    with kept_port() as port:
        with serving(home, tmp_path / "one", "pumps", "--workers", "2", grpc_port=port) as server:
            refused = command(home, "serve", "pumps", "--port", "0", "--grpc-port", str(port))
            _ask_over_grpc(server.grpc)
            assert server.end() == 0
        # Connections that ended linger there.
        with serving(home, tmp_path / "two", "pumps", grpc_port=port) as server:
            assert server.grpc == f"127.0.0.1:{port}"
            _ask_over_grpc(server.grpc)
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another --grpc-port" in refused.stderr


def _ask_over_grpc(address):
    assert _grpc_call(address, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready


def _grpc_call(address, method, message, answer, *metadata):
    with grpc.insecure_channel(address) as channel:
        return _called(channel, method, message, answer, *metadata)


def _called(channel, method, message, answer, *metadata):
    ask = channel.unary_unary(
        f"/{SERVICE}/{method}",
        request_serializer=type(message).SerializeToString,
        response_deserializer=answer.FromString,
    )
    return ask(message, timeout=PATIENCE_S, wait_for_ready=True, metadata=metadata)


@pytest.fixture
def orphan(postgresql, tmp_path, monkeypatch):
    """A server whose database can be dropped, and a key of each role that is asked with."""
    name = postgresql.create()
    monkeypatch.setenv("SHOAL_DATABASE_URL", postgresql.url(name))
    make_home(tmp_path / "home")
    with shoal.open(tmp_path / "home") as workspace:
        keys = {role: workspace.create_key(str(role), role).text for role in (Role.PREDICTOR, Role.OPERATOR)}
    with serving(tmp_path / "home", tmp_path, "pumps") as server:
        yield server, keys, lambda: postgresql.drop(name)


def test_a_server_outlives_its_database(orphan):
    server, keys, drop = orphan
    with server.client(keys[Role.OPERATOR]) as client:
        assert client.post(INFER, json=request()).status_code == 200
        drop()
        wait_until(lambda: _staleness_s(client) > 2)
        assert client.get("/v2/health/ready").status_code == 200
        assert client.post(INFER, json=request()).status_code == 200
        failed = client.get("/api/v1/fleets")
        assert server.end() == 0
    assert failed.status_code == 503
    assert list(failed.json()) == ["error"]


@pytest.mark.usefixtures("unhurried")
def test_both_doors_are_logged_and_traced(home, tmp_path, collector):
    endpoint, taken = collector
    trace = "0af7651916cd43dd8448eb211c80319c"
    given = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "x-request-id": "one"}
    with serving(home, tmp_path, "pumps", "--access-log", "1", "--otlp-endpoint", endpoint) as server:
        with server.client() as client:
            assert client.post(INFER, json=request(), headers=given).status_code == 200
        with grpc.insecure_channel(server.grpc) as channel:
            live = channel.unary_unary(f"/{SERVICE}/ServerLive")
            _, call = live.with_call(b"", timeout=PATIENCE_S, metadata=tuple(given.items()))
        assert dict(call.trailing_metadata())["x-request-id"] == "one"
        wait_until(lambda: server.news().count('"shoal.access"') >= 2)
        assert server.end() == 0
        lines = [json.loads(line) for line in server.news().splitlines() if '"shoal.access"' in line]
    rest, rpc = lines
    assert set(rpc) == {*rest, "code"}
    assert (rpc["request_id"], rest["request_id"]) == ("one", "one")
    assert (rpc["path"], rpc["status"], rpc["code"]) == (f"/{SERVICE}/ServerLive", 200, "OK")
    assert {span.trace_id.hex() for span in taken} == {trace}
    assert {span.name for span in taken} == {"POST /v2/models/{model}/infer", f"{SERVICE}/ServerLive"}


def test_a_caller_hears_nothing_of_a_database_but_that_it_has_gone(orphan):
    server, keys, drop = orphan
    drop()
    with server.client(keys[Role.PREDICTOR]) as client, server.client(keys[Role.OPERATOR]) as operator:
        told = [
            client.post(f"{INFER}/async", json=request()),
            client.post("/v2/models/pumps/versions/2/infer", json=request()),
            operator.get("/api/v1/fleets"),
            operator.post("/v2/repository/models/pumps/unload"),
        ]
    message = pb.ModelInferRequest(model_name="pumps", model_version="2")
    with pytest.raises(grpc.RpcError) as refused:
        _grpc_call(server.grpc, "ModelInfer", message, pb.ModelInferResponse, ("x-api-key", keys[Role.PREDICTOR]))
    assert [answer.status_code for answer in told] == [503] * len(told)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in told)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(refused.value.trailing_metadata())["retry-after"]
    for text in [*(answer.json()["error"] for answer in told), refused.value.details()]:
        assert not re.search(r"postgres|psycopg|shoal-pg|host=|/tmp", text)
    for answer in told:  # the log says more under this id, whether or not it was known that the registry is away
        request_id = answer.headers["x-request-id"]
        assert request_id in answer.json()["error"]
        more = rf"request {request_id} failed: .*(shoal-pg|has not answered)"
        wait_until(lambda more=more: re.search(more, server.news()))
    with server.client(keys[Role.OPERATOR]) as operator:  # as soon as the driver itself has said so
        wait_until(lambda: operator.get("/api/v1/fleets").status_code == 503 and "shoal-pg" in server.news())
    assert dict(refused.value.trailing_metadata())["x-request-id"] in refused.value.details()


def _staleness_s(client):
    text = client.get("/metrics").text
    return float(re.search(r"^shoal_registry_staleness_seconds (\S+)$", text, re.MULTILINE)[1])


@pytest.mark.usefixtures("unhurried")
def test_servers_find_each_other_until_they_end(home, tmp_path):
    with serving(home, tmp_path / "one", "pumps") as one, one.client() as client:
        with serving(home, tmp_path / "two", "pumps", "--no-grpc", "--url", "https://models.example.org/") as two:
            found = wait_until(lambda: len(told := client.get("/api/v1/services?name=pumps").json()) == 2 and told)
            assert two.end() == 0
        wait_until(lambda: len(client.get("/api/v1/services").json()) == 1)
        narrowed = "no server that is alive holds such a fleet"
        wait_until(lambda: narrowed in command(home, "services", "--fleet", "nope").stderr)
        assert one.end() == 0
    assert "no server is alive; start one" in command(home, "services").stderr
    assert {service["url"] for service in found} == {one.url, "https://models.example.org"}
    assert {service["fleets"][0]["version"] for service in found} == {1}


def _address(url):
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def _metrics(server):
    return get(server.url + "/metrics").text


def test_the_server_is_ready_for_a_shell(home, tmp_path):
    """What a person sees: one line on the standard output, once."""
    line = ["--home", str(home), "serve", "pumps", "--port", "0", "--no-grpc", "--json"]
    code = "import sys; from shoal.cli import main; main(sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", code, *line], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    said = process.stdout.readline()
    process.terminate()
    rest, _ = process.communicate(timeout=PATIENCE_S)
    assert b'"url":"http://127.0.0.1:' in said
    assert rest == b""
