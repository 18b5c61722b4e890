"""What real servers keep of predictions: logs that survive ends and kills, results that are stored or not answered."""

import concurrent.futures
import os
import signal
import threading

import httpx
import numpy as np
import polars as pl
import psycopg
import pytest
from serve_process import Server, answer_of, is_alive, make_home, request, serving, wait_until
from sklearn.linear_model import Ridge

import shoal
from shoal.security.permissions import Role
from shoal.serving.log import scan_log
from shoal.serving.payloads import decode_request, decode_response
from shoal.settings import Settings
from shoal.workspace import Workspace
from tests.databases import PostgresqlServer

SITES = 50


def ask(client: httpx.Client, name: str, **given: object) -> httpx.Response:
    return client.post("/v2/models/pumps/infer", json=request(**given), headers={"x-request-id": name})


def logged(home, fleet: str = "pumps") -> pl.DataFrame:
    return scan_log(home / "predictions", fleet).collect()


def metric(server: Server, name: str) -> float:
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(name + " "))


def test_every_answer_is_logged_by_two_workers_that_end(tmp_path):
    make_home(tmp_path / "home")
    with shoal.open(tmp_path / "home") as workspace:
        workspace.set_serving("pumps", {"log": {}})
    with serving(tmp_path / "home", tmp_path / "server", "pumps", "--workers", "2", "--no-grpc") as server:
        with server.client() as client, concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: ask(client, f"r{n}", device=n % 5, a=float(n)), range(200)))
        assert server.end() == 0
    found = {row["request_id"]: row for row in logged(tmp_path / "home").iter_rows(named=True)}
    assert len(found) == 200
    for number, answer in enumerate(answers):
        row = found[f"r{number}"]
        assert (str(row["version"]), row["prediction"]) == answer_of(answer)
        assert (row["device"], row["a"], row["outcome"]) == (f"d{number % 5}", float(number), "scored")
        assert (row["principal"], row["model_level"], row["model"]) == ("loopback", "device", "pumps")


def test_a_killed_worker_leaves_whole_files_and_others_go_on(tmp_path):
    make_home(tmp_path / "home")
    with shoal.open(tmp_path / "home") as workspace:
        workspace.set_serving("pumps", {"log": {"file_s": 0.1}})
    with serving(tmp_path / "home", tmp_path / "server", "pumps", "--workers", "1", "--no-grpc") as server:
        with server.client() as client:
            assert {ask(client, f"early{number}").status_code for number in range(20)} == {200}
        wait_until(lambda: metric(server, "shoal_prediction_log_rows_total") == 20)
        [worker] = server.workers()
        with server.client() as client:
            for number in range(20):
                ask(client, f"late{number}")
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not is_alive(worker) and server.workers() not in ([], [worker]))
        wait_until(lambda: _answers(server))
        server.end()
    found = set(logged(tmp_path / "home")["request_id"])
    assert {f"early{number}" for number in range(20)} <= found
    assert "again" in found


def _answers(server: Server) -> bool:
    try:
        with server.client() as client:
            return ask(client, "again").status_code == 200
    except httpx.TransportError:
        return False


def test_a_log_that_cannot_be_written_costs_no_answer(tmp_path):
    home = tmp_path / "home"
    make_home(home)
    with shoal.open(home) as workspace:
        workspace.set_serving("pumps", {"log": {"file_s": 0.1}})
    (home / "predictions").write_text("in the way")
    with serving(home, tmp_path / "server", "pumps", "--no-grpc") as server:
        with server.client() as client:
            assert [ask(client, f"r{number}").status_code for number in range(5)] == [200] * 5
        wait_until(lambda: metric(server, "shoal_prediction_log_dropped_total") == 5)
        (home / "predictions").unlink()
        with server.client() as client:
            assert ask(client, "then").status_code == 200
        wait_until(lambda: metric(server, "shoal_prediction_log_rows_total") == 1)
        server.end()
    assert logged(home)["request_id"].to_list() == ["then"]


@pytest.fixture
def key_only(tmp_path, postgresql: PostgresqlServer, postgresql_databases):
    """A home on PostgreSQL whose fleet looks its features up there, has a rule, and durable results."""
    url = postgresql_databases.migrated()
    features = postgresql_databases.empty()
    with psycopg.connect(features) as connection:
        connection.execute("CREATE TABLE sites (site TEXT PRIMARY KEY, age DOUBLE PRECISION, load DOUBLE PRECISION)")
        rows = [(f"s{number}", float(number), number / 10) for number in range(SITES - 1)]
        connection.cursor().executemany("INSERT INTO sites VALUES (%s, %s, %s)", rows)
    X = np.random.default_rng(0).normal(size=(30, 2))
    models = {(f"s{number}",): Ridge(alpha=1e-9).fit(X, X.sum(axis=1) + number) for number in range(SITES)}
    fleet = shoal.Fleet.from_estimators(
        keys=["site"], models=models, features=["age", "load"], task="regression", name="orders"
    )
    settings = Settings.from_environment({"SHOAL_DATABASE_URL": url}, home=tmp_path / "home")
    with Workspace(settings) as workspace:
        workspace.promote("orders", workspace.register(fleet).version)
        workspace.set_source("sites", {"kind": "sql", "url": features, "table": "sites"})
        workspace.set_serving("orders", {
            "lookup": {"source": "sites", "keys": ["site"], "features": ["age", "load"], "timeout_ms": 30_000,
                       "defaults": {"age": 0.0, "load": 0.0}},
            "rules": {"decision": "CASE WHEN prediction > 50 THEN 'stop' ELSE 'go' END"},
            "store": "durable",
            "log": {},
        })  # fmt: skip
        key = workspace.create_key("door", Role.PREDICTOR).text
        yield workspace, url, key


def order(client: httpx.Client, name: str, site: str) -> httpx.Response:
    body = {"inputs": [{"name": "site", "datatype": "BYTES", "shape": [1], "data": [site]}]}
    return client.post("/v2/models/orders/infer", json=body, headers={"x-request-id": name})


def told(response: httpx.Response) -> dict[str, object]:
    return {one["name"]: one["data"][0] for one in response.json()["outputs"]}


def test_a_key_is_looked_up_scored_ruled_stored_and_answered(key_only, tmp_path):
    """The business flow: the request has nothing but a key, and its result is in PostgreSQL before it is answered."""
    workspace, url, key = key_only
    home, environment = workspace.settings.home, {"SHOAL_DATABASE_URL": url}
    with serving(home, tmp_path / "server", "orders", "--workers", "2", environment=environment) as server:
        client = server.client(key)

        def one(number: int) -> tuple[dict[str, object], list[object]]:
            response = order(client, f"order-{number}", f"s{number % SITES}")
            assert response.status_code == 200, response.text
            return told(response), workspace.predictions.of_request(f"order-{number}")

        with client, concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(one, range(200)))
        server.end()
    for number, (answer, [kept]) in enumerate(answers):
        site = number % SITES
        age, load = (float(site), site / 10) if site < SITES - 1 else (0.0, 0.0)
        truth = age + load + site
        assert answer["prediction"] == pytest.approx(truth, abs=1e-6)
        assert answer["decision"] == ("stop" if truth > 50 else "go")
        stored = {tensor.name: tensor.data[0] for tensor in decode_response(kept.answer).outputs}
        assert {name: stored[name] for name in answer} == answer
        asked = {tensor.name: tensor.data[0] for tensor in decode_request(kept.request).inputs}
        assert asked == {"site": f"s{site}", "age": age, "load": load}
        assert (kept.fleet, kept.principal) == ("orders", "door")
    found = logged(workspace.settings.home, "orders")
    assert set(found["request_id"]) == {f"order-{number}" for number in range(200)}


def more(answers: list[str] | list[int], some: int = 50) -> None:
    """Wait for some more."""
    before = len(answers)
    wait_until(lambda: len(answers) >= before + some)


def test_nothing_is_answered_that_is_not_stored(key_only, tmp_path, postgresql: PostgresqlServer):
    """Workers are killed and the table goes away and comes back, all under load: what was answered is stored."""
    workspace, url, key = key_only
    database = url.partition("@/")[2].partition("?")[0]
    answered: list[str] = []
    refused: list[int] = []
    home, environment = workspace.settings.home, {"SHOAL_DATABASE_URL": url}
    with serving(home, tmp_path / "server", "orders", "--workers", "2", environment=environment) as server:
        client, stop = server.client(key), threading.Event()

        def load(thread: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                name = f"order-{thread}-{number}"
                try:
                    response = order(client, name, "s1")
                except httpx.TransportError:
                    continue
                if response.status_code == 200:
                    answered.append(name)
                else:
                    refused.append(response.status_code)

        with client, concurrent.futures.ThreadPoolExecutor(6) as pool:
            loads = [pool.submit(load, thread) for thread in range(6)]
            try:
                more(answered)
                os.kill(server.workers()[0], signal.SIGKILL)
                more(answered)
                postgresql.execute("ALTER TABLE predictions RENAME TO elsewhere", database)
                more(refused)
                postgresql.execute("ALTER TABLE elsewhere RENAME TO predictions", database)
                more(answered)
            finally:
                stop.set()
            for one in loads:
                one.result()
        server.end()
    assert set(refused) == {503}
    kept = {record.request_id for record in workspace.predictions.listed(fleet="orders", limit=100_000)}
    assert set(answered) <= kept
