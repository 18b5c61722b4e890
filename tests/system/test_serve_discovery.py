"""Discovery by key goes by what servers serve: not by what was registered, nor by what was once there."""

import numpy as np
import pytest
from serve_process import command, serving, wait_until
from sklearn.linear_model import Ridge

import shoal
from shoal.serving.holdings import KEPT, Holdings

X = np.random.default_rng(0).normal(size=(30, 2))


def model():
    return Ridge().fit(X, X.sum(axis=1))


def routes(keys, name="routes", **fallbacks):
    return shoal.Fleet.from_estimators(
        keys=["origin", "destination"],
        models={key: model() for key in keys},
        features=["a", "b"],
        task="regression",
        name=name,
        **fallbacks,
    )


BOSTON = {"fallbacks": {("origin",): {("BOS",): model()}}}


@pytest.fixture
def home(tmp_path, databases, monkeypatch):
    """``routes:1`` knows one route and Boston; ``routes:2``, which nobody promoted, knows another route."""
    monkeypatch.setenv("SHOAL_DATABASE_URL", databases.migrated())
    with shoal.open(tmp_path / "home") as workspace:
        workspace.register(routes([("JFK", "LAX"), ("a:b", "é/")], **BOSTON), tags=["air"])
        workspace.promote("routes", 1)
        workspace.register(routes([("JFK", "SFO")], **BOSTON))
        workspace.register(routes([("JFK", "LAX")], name="anywhere", fallbacks={(): {(): model()}}))
    return tmp_path / "home"


CASES = [
    ("JFK:LAX", True),
    ("BOS:LAX", True),
    ("BOS:*", True),
    ("JFK:SFO", False),
    ("JFK:*", False),
    ("JFK", False),
    ("", False),
    ("a%3Ab:%C3%A9%2F", True),
]


def test_a_key_finds_the_servers_that_answer_for_it(home, tmp_path):
    with serving(home, tmp_path, "routes", "--no-grpc") as server, server.client() as client:

        def found(**asked):
            return [
                one["name"]
                for service in client.get("/api/v1/services", params=asked).json()
                for one in service["fleets"]
            ]

        wait_until(lambda: found(tag="air"))  # which only the registry knows
        for key, answers in CASES:
            assert found(key=key) == ["routes"] * answers, key
        wait_until(lambda: "routes:1" in command(home, "services", "--key", "BOS:LAX").stdout)
        assert "routes:1" not in command(home, "services", "--key", "JFK:SFO").stdout
        assert found(category="") == found(tag="air") == ["routes"]
        assert found(tag="") == found(name="") == found(category="air") == []
        for query in ("tag=air&tag=water", "key=JFK:LAX&key=JFK:SFO", "name=&name="):
            refused = client.get(f"/api/v1/services?{query}")
            assert refused.status_code == 400
            assert "once" in refused.json()["error"]
        assert command(home, "promote", "routes:2").returncode == 0
        wait_until(lambda: found(key="JFK:SFO") == ["routes"] and found(key="JFK:LAX") == [])


def test_without_keys_any_address_of_this_machine_is_served_and_found(home, tmp_path):
    with (
        serving(home, tmp_path / "one", "routes", "--no-grpc") as one,
        serving(home, tmp_path / "two", "routes", "--no-grpc", "--host", "127.0.0.2") as two,
        two.client() as client,
    ):
        assert two.url.startswith("http://127.0.0.2:")
        assert client.get("/v2").status_code == 200
        assert client.get("/v2", headers={"host": "two.example"}).status_code == 403
        wait_until(lambda: len(client.get("/api/v1/services", params={"name": "routes"}).json()) == 2)
        for url in (one.url, two.url):
            with shoal.connect(url) as connected:
                rows = {"origin": ["JFK"], "destination": ["LAX"], "a": [1.0], "b": [2.0]}
                answers = [
                    connected.fleet("routes").predict(rows)["prediction"][0] for _ in range(6)
                ]  # of both in turns
                assert answers == pytest.approx([2.9] * 6, rel=0.2)


def test_a_global_model_answers_for_every_key_and_few_snapshots_are_kept_open(home):
    with shoal.open(home) as workspace:
        opened = []

        def opener(reference):
            opened.append(reference)
            return workspace.fleet(reference)

        holdings = Holdings(opener)
        assert holdings.answers("anywhere", 1, "no:body")
        assert not holdings.answers("anywhere", 1, "no")
        assert not holdings.answers("anywhere", 9, "no:body")
        assert opened == ["anywhere:1", "anywhere:9"]
        for _ in range(KEPT):
            workspace.register(routes([("JFK", "LAX")]))
        for version in range(1, KEPT + 2):
            assert holdings.answers("routes", version, "JFK:LAX") == (version != 2)
        holdings.answers("anywhere", 1, "no:body")
        assert opened.count("anywhere:1") == 2
