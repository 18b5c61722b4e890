"""The real server and requests that nobody waits for: over HTTP, with keys, several workers, kills and drains."""

import datetime as dt
import json
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import polars as pl
import pytest
from async_world import furnish
from serve_process import children, command, make_home, request, serving, wait_until

import shoal
from shoal.jobs.states import PredictionState
from shoal.ledger import NewPrediction, PredictionKind
from shoal.security.permissions import Role
from shoal.serving.messages import InferenceRequest
from shoal.serving.payloads import encode_request
from tests.lookup_servers import RedisServer

INFER = "/v2/models/pumps/infer"
LATER = {"prefer": "respond-async"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("async") / "home"
    make_home(folder)
    return folder


@pytest.fixture(scope="module")
def server(home, tmp_path_factory):
    with serving(home, tmp_path_factory.mktemp("server"), "pumps", "--workers", "2", "--no-grpc") as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as made:
        yield made


def ended(client, location):
    """Poll until it is settled."""
    return wait_until(lambda: (r := client.get(location, params={"timeout": 2})).status_code == 200 and r).json()


@pytest.mark.parametrize("path", [f"{INFER}/async", "/v2/models/pumps/versions/2/infer/async"])
def test_an_answer_later_is_the_answer_at_once(client, path):
    at_once = client.post(path.removesuffix("/async"), json=request(3))
    accepted = client.post(path, json=request(3))
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"/api/v1/predictions/{accepted.json()['id']}"
    assert accepted.json()["state"] == "waiting"
    shown = ended(client, accepted.headers["location"])
    assert shown["state"] == "done"
    assert shown["response"] == at_once.json()


@pytest.mark.parametrize("timeout", ["-1", "0", "nan", "soon", ""])
def test_a_time_to_wait_that_is_none_is_refused_whatever_became_of_the_prediction(client, timeout):
    location = client.post(f"{INFER}/async", json=request()).headers["location"]
    assert ended(client, location)["state"] == "done"
    for path in (location, "/api/v1/predictions/unknown"):
        refused = client.get(path, params={"timeout": timeout})
        assert (refused.status_code, "timeout" in refused.json()["error"]) == (400, True)


def test_the_header_asks_for_it_too_and_other_preferences_do_not(client):
    assert client.post(INFER, json=request(), headers={"prefer": "wait=5"}).status_code == 200
    for value in ("respond-async", "Respond-Async; x=1, wait=5", "wait=1,respond-async"):
        accepted = client.post(INFER, json=request(), headers={"prefer": value})
        assert (accepted.status_code, accepted.headers["preference-applied"]) == (202, "respond-async")


def test_binary_tensors_are_taken_and_the_answer_is_json(client):
    import numpy as np

    tensors = [np.array([1.0]), np.array([2.0])]
    described = [
        {"name": n, "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}} for n in ("a", "b")
    ]
    head = json.dumps({"inputs": [request()["inputs"][0], *described]}).encode()
    body = head + b"".join(one.tobytes() for one in tensors)
    headers = {**LATER, "inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    accepted = client.post(INFER, content=body, headers=headers)
    assert ended(client, accepted.headers["location"])["response"] == client.post(INFER, json=request()).json()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"idempotency-key": "x" * 256}, 400),
        ({"ordering-key": "a\tb"}, 400),
        ({"prediction-timeout": "soon"}, 400),
        ({"prediction-timeout": "-1"}, 400),
        ({"prediction-timeout": "nan"}, 400),
        ({"prediction-sink": "nowhere"}, 404),
        ({"content-type": "text/plain"}, 415),
    ],
)
def test_what_cannot_be_used_is_refused(client, headers, status):
    answer = client.post(f"{INFER}/async", json=request(), headers=headers)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    ("headers", "timeout", "state"),
    [
        ({}, 1, "expired"),
        ({"prediction-timeout": "300"}, 1, "expired"),
        ({"prediction-timeout": "0.000001"}, 300_000_000, "expired"),
        ({"prediction-timeout": "300"}, 300_000_000, "done"),
        ({}, 0, "done"),
    ],
)
def test_a_timeout_among_the_parameters_counts_as_well_as_the_header_does(client, headers, timeout, state):
    asked = {**request(), "parameters": {"timeout": timeout}}
    accepted = client.post(INFER, json=asked, headers={**LATER, **headers})
    assert accepted.status_code == 202
    assert ended(client, accepted.headers["location"])["state"] == state


@pytest.mark.parametrize(("header_days", "parameter_days", "days"), [(29, 20, 20), (29, 0, 29), (20, 29, 20)])
def test_the_sooner_of_both_times_counts_also_where_both_are_long(client, header_days, parameter_days, days):
    asked = {**request(), "parameters": {"timeout": parameter_days * 86_400_000_000}}
    headers = {**LATER, "prediction-timeout": str(header_days * 86_400)}
    shown = client.get(client.post(INFER, json=asked, headers=headers).headers["location"]).json()
    expires_at, accepted_at = (dt.datetime.fromisoformat(shown[name]) for name in ("expires_at", "accepted_at"))
    assert abs(expires_at - accepted_at - dt.timedelta(days=days)) < dt.timedelta(seconds=5)


def test_a_fleets_own_limit_is_tried_again_while_the_request_has_time(tmp_path):
    """The source of its features hangs for a while; the request is wanted for longer."""
    make_home(tmp_path / "home")
    lookup = {"source": "units", "keys": ["device"], "features": ["a", "b"], "on_failure": "fail", "timeout_ms": 60_000}
    with RedisServer() as units:
        with shoal.open(tmp_path / "home") as workspace, units.client() as redis:
            workspace.set_source("units", {"kind": "redis", "url": units.url, "key": "unit:{device}"})
            workspace.set_serving("pumps", {"lookup": lookup, "limits": {"timeout_s": 0.2}})
            redis.hset("unit:d1", mapping={"a": 1.0, "b": 2.0})
        with serving(tmp_path / "home", tmp_path, "pumps", "--no-grpc") as server, server.client() as client:
            units.signal(signal.SIGSTOP)
            asked = {"inputs": request()["inputs"][:1]}
            accepted = client.post(f"{INFER}/async", json=asked, headers={"prediction-timeout": "600"})
            location = accepted.headers["location"]
            tried = wait_until(lambda: (told := client.get(location).json())["attempts"] > 1 and told)
            assert tried["state"] in ("waiting", "claimed")
            units.signal(signal.SIGCONT)
            done = ended(client, location)
            assert done["state"] == "done"
            assert done["response"]["outputs"] == client.post(INFER, json=asked).json()["outputs"]


@pytest.mark.parametrize("timeout", [-1, 31 * 86_400_000_000])
def test_a_timeout_among_the_parameters_that_is_no_time_is_refused(client, timeout):
    answer = client.post(INFER, json={**request(), "parameters": {"timeout": timeout}}, headers=LATER)
    assert (answer.status_code, "timeout" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/predictions/1-0123456789abcdef", 404),
        ("/api/v1/predictions/..%2f..", 404),
        ("/api/v1/predictions/%ff", 404),
        ("/api/v1/predictions?state=lost", 400),
        ("/api/v1/predictions?limit=0", 400),
        ("/api/v1/predictions?colour=red", 400),
        ("/v2/models/nobody/infer/async", 405),
    ],
)
def test_what_is_not_there_is_said_so(client, path, status):
    answer = client.get(path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    ("path", "asked", "status", "said"),
    [
        (INFER, {"inputs": []}, 400, "no inputs"),
        (INFER, {"inputs": [{"name": "z", "datatype": "FP64", "shape": [1], "data": [1.0]}]}, 400, "no input 'z'"),
        (INFER, {**request(), "outputs": [{"name": "z"}]}, 400, "no output 'z'"),
        ("/v2/models/pumps/versions/9/infer", request(), 404, "no snapshot 9"),
        ("/v2/models/pumps:d9/infer", {"inputs": request()["inputs"][1:]}, 404, "no model"),
        ("/v2/models/fans/infer", request(), 404, "fans"),
        ("/invocations", {"instances": [{"device": "d1", "b": 2.0}]}, 400, "'a'"),
    ],
)
def test_what_cannot_be_answered_is_refused_at_once(client, home, path, asked, status, said):
    before = client.get("/api/v1/predictions").json()
    answer = client.post(path, json=asked, headers=LATER)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert said in answer.json()["error"]
    assert [one["id"] for one in client.get("/api/v1/predictions").json()] == [one["id"] for one in before]


def test_a_request_sent_again_is_told_where_it_stands(client):
    headers = {**LATER, "idempotency-key": "again"}
    accepted = client.post(INFER, json=request(4), headers=headers)
    assert ended(client, accepted.headers["location"])["state"] == "done"
    again = client.post(INFER, json=request(4), headers=headers)
    assert (again.status_code, again.json()) == (202, {"id": accepted.json()["id"], "state": "done"})
    assert again.headers["location"] == accepted.headers["location"]
    assert client.post(INFER, json=request(3), headers=headers).status_code == 409


def test_mlflows_requests_can_wait_too(client):
    table = {"dataframe_split": {"columns": ["device", "a", "b"], "data": [["d1", 1.0, 2.0], ["d9", 1.0, 2.0]]}}
    at_once = client.post("/invocations", json=table, headers={"prefer": "wait=1"})
    assert at_once.status_code == 200
    for given in (
        {"json": table},
        {"content": b"device,a,b\nd1,1,2\nd9,1,2\n", "headers": {"content-type": "text/csv"}},
    ):
        headers = {**given.pop("headers", {}), **LATER, "idempotency-key": f"table {len(given.get('content', ''))}"}
        accepted = client.post("/invocations", headers=headers, **given)
        assert (accepted.status_code, accepted.headers["preference-applied"]) == (202, "respond-async")
        [output] = ended(client, accepted.headers["location"])["response"]["outputs"]
        assert output["name"] == "prediction"
        assert output["data"] == at_once.json()["predictions"]


def told(client):
    """The metrics by name and labels."""
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[:1] != "#"}


def test_the_queue_shows_in_the_metrics_once_for_all_workers(server, home):
    def counted():
        now = told(client)
        return [now[f"shoal_predictions_{name}_total"] for name in ("accepted", "done", "failed")]

    def kept():
        """The same, by what is kept: what the server accepted itself, and how often what can only fail has failed."""
        with shoal.open(home) as workspace:
            records = workspace.predictions.listed(limit=1000)
        accepted = sum(record.principal == "loopback" for record in records)
        failures = sum(record.attempts for record in records if record.state is PredictionState.FAILED)
        return [accepted, sum(record.state is PredictionState.DONE for record in records), failures]

    def grown():
        return [now - then for now, then in zip(counted(), before, strict=True)]

    with server.client() as client:
        # Each worker publishes once a second what it did before.
        wait_until(lambda: counted() == kept())
        before = kept()
        _hopeless(home, "metrics")
        for number in range(20):
            client.post(f"{INFER}/async", json=request(number % 5))
        wait_until(lambda: grown() == [20, 20, 1])
        failed = json.loads(command(home, "predictions", "list", "--state", "failed", "--json").stdout)
        standing = {"waiting": 0, "claimed": 0, "oldest_seconds": 0, "dead": len(failed)}
        wait_until(lambda: {name: told(client)[f"shoal_predictions_{name}"] for name in standing} == standing)
    assert failed


def _hopeless(home, principal, fleet="pumps"):
    """Have a request waiting that could be answered when it was accepted, and cannot be now; its address.

    One of a fleet that no server serves waits until somebody does.
    """
    hopeless = NewPrediction(
        kind=PredictionKind.DEFERRED, fleet=fleet, principal=principal, request_id="r",
        request=encode_request(InferenceRequest(model=fleet, inputs=())),
    )  # fmt: skip
    with shoal.open(home) as workspace:
        return f"/api/v1/predictions/{workspace.predictions.accept([hopeless])[0]}"


def test_the_same_words_on_the_command_line(client, home):
    bad = _hopeless(home, "ann")
    failed = ended(client, bad)
    listed = json.loads(command(home, "predictions", "list", "--state", "failed", "--json").stdout)
    assert failed["id"] in [one["id"] for one in listed]
    shown = json.loads(command(home, "predictions", "show", failed["id"], "--json").stdout)
    assert shown == failed
    assert failed["error"] in command(home, "predictions", "show", failed["id"]).stdout
    assert "waits again" in command(home, "predictions", "replay", failed["id"]).stdout
    wait_until(lambda: ended(client, bad)["attempts"] == 2)
    assert command(home, "predictions", "show", "1-0000000000000000").returncode == 1
    assert command(home, "predictions", "replay").returncode == 1
    assert json.loads(command(home, "predictions", "replay", "--failed", "--json").stdout)["waiting"] >= 1
    assert ended(client, client.post(f"{INFER}/async", json=request()).headers["location"])["state"] == "done"
    done = client.get("/api/v1/predictions", params={"state": "done", "limit": 1}).json()
    text = command(home, "predictions", "show", done[0]["id"]).stdout
    assert "pumps, snapshot" in text
    kinds = [client.get("/api/v1/predictions", params={"kind": kind}) for kind in ("deferred", "stored", "other")]
    assert [one.status_code for one in kinds] == [200, 200, 400]
    assert (len(kinds[0].json()), kinds[1].json()) == (len(client.get("/api/v1/predictions").json()), [])


def test_many_callers_wait_without_a_thread_each(server):
    with httpx.Client(base_url=server.url, timeout=30, limits=httpx.Limits(max_connections=100)) as client:
        locations = [client.post(f"{INFER}/async", json=request(n % 5)).headers["location"] for n in range(100)]
        found = []

        def wait(location):
            found.append(client.get(location, params={"timeout": 20}).json())

        threads = [threading.Thread(target=wait, args=(location,)) for location in locations]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [one["state"] for one in found] == ["done"] * 100


def test_callers_see_their_own_and_nobody_elses(tmp_path):
    make_home(tmp_path / "home")
    with shoal.open(tmp_path / "home") as workspace:
        roles = {"ann": Role.PREDICTOR, "bob": Role.PREDICTOR, "eve": Role.READER, "op": Role.OPERATOR}
        keys = {name: workspace.create_key(name, role).text for name, role in roles.items()}
    with serving(tmp_path / "home", tmp_path / "s", "pumps", "--no-grpc", "--admin-port", "0") as server:
        clients = {name: server.client(key) for name, key in keys.items()}
        bad = _hopeless(tmp_path / "home", "ann")
        good = clients["bob"].post(f"{INFER}/async", json=request()).headers["location"]
        assert ended(clients["ann"], bad)["state"] == "failed"
        assert ended(clients["bob"], good)["state"] == "done"
        assert [clients[name].get(bad).status_code for name in keys] == [200, 404, 403, 200]
        assert [clients[name].get(good).status_code for name in keys] == [404, 200, 403, 200]
        counts = [len(clients[name].get("/api/v1/predictions").json()) for name in ("ann", "bob", "op")]
        assert counts == [1, 1, 2]
        assert clients["bob"].post(f"{bad}/replay").status_code == 404
        assert clients["ann"].post(f"{bad}/replay").status_code == 202
        wait_until(lambda: ended(clients["ann"], bad)["attempts"] == 2)
        assert clients["op"].post(f"{bad}/replay").status_code == 202
        assert clients["ann"].post(f"{good}/replay").status_code == 404
        assert clients["bob"].post(f"{good}/replay").status_code == 409
        same = [clients[name].post(f"{INFER}/async", json=request(), headers={"idempotency-key": "k"}).json()["id"]
                for name in ("ann", "bob")]  # fmt: skip
        assert same[0] != same[1]
        for one in clients.values():
            one.close()


def test_a_server_that_ends_answers_who_waits_and_another_goes_on(tmp_path):
    make_home(tmp_path / "home")
    with serving(tmp_path / "home", tmp_path / "one", "pumps", "--no-grpc", "--drain-timeout", "60") as server:
        with server.client() as client, ThreadPoolExecutor(1) as pool:
            # One key: they are done one after the other, so that some are left when the server ends.
            headers = {"ordering-key": "k", "prediction-timeout": "300"}
            ids = [client.post(f"{INFER}/async", json=request(n % 5), headers=headers).json()["id"] for n in range(30)]
            location = _hopeless(tmp_path / "home", "loopback", "fans")
            waiting = pool.submit(client.get, location, params={"timeout": 55}, timeout=100)
            wait_until(lambda: told(client)["shoal_requests_under_way"] == 2)  # with the question how many there are
            started = time.monotonic()
            assert server.end() == 0
            answer = waiting.result()
        assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
        assert time.monotonic() - started < 15  # who waited for nothing would have been answered after 55
    with serving(tmp_path / "home", tmp_path / "two", "pumps", "--no-grpc") as server, server.client() as client:
        for one in ids:
            assert ended(client, f"/api/v1/predictions/{one}")["state"] == "done"


def test_killed_workers_lose_nothing_and_do_nothing_twice(tmp_path, databases):
    home, url = tmp_path / "home", databases.migrated()
    furnish(home, url).close()
    options = ("pumps", "--workers", "2", "--no-grpc")
    with serving(home, tmp_path / "s", *options, environment={"SHOAL_DATABASE_URL": url}) as server:
        accepted, stop = [], threading.Event()
        threads = [threading.Thread(target=_ask, args=(server.url, number, accepted, stop)) for number in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            seen = len(accepted)
            wait_until(lambda seen=seen: len(accepted) > seen + 40)
            os.kill(random.choice(children(server.process.pid)), signal.SIGKILL)
        wait_until(lambda: len(accepted) > 250)
        stop.set()
        for thread in threads:
            thread.join()
        with server.client() as client:
            for one in accepted:
                assert ended(client, f"/api/v1/predictions/{one}")["state"] == "done"
            assert client.get("/api/v1/predictions", params={"state": "failed"}).json() == []
    assert len(set(accepted)) == len(accepted)
    files = (tmp_path / "lake" / "pumps").glob("*.parquet")
    rows = pl.concat([frame for frame in map(pl.read_parquet, files) if frame.height], how="diagonal_relaxed")
    found = rows["prediction_id"].to_list()
    assert len(found) == len(set(found))
    assert set(accepted) <= set(found)


def _ask(url, number, accepted, stop):
    count = 0
    while not stop.is_set():
        try:
            with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
                while not stop.is_set():
                    count += 1
                    headers = {"prediction-sink": "lake", "idempotency-key": f"{number}-{count}"}
                    if number % 2:
                        headers["ordering-key"] = str(number)
                    answer = client.post(f"{INFER}/async", json=request(count % 5), headers=headers)
                    if answer.status_code == 202:
                        accepted.append(answer.json()["id"])
        except httpx.TransportError:
            time.sleep(0.02)
