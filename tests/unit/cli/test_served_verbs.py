"""``shoal fleets serving``, ``load``, ``pin``, ``describe``; ``shoal audit``; ``shoal predictions submit``."""

import json

import pytest
from sklearn.linear_model import Ridge

import shoal as package
from shoal.serving.payloads import decode_request


@pytest.fixture
def pumps(home):
    models = {("d1", 4): Ridge().fit([[0.0], [1.0]], [0.0, 2.0])}
    fleet = package.Fleet.from_estimators(keys=["device", "line"], models=models, features=["x"], task="regression")
    with package.open(home, actor="ann") as workspace:
        for _ in range(2):
            workspace.register(fleet, "pumps")
        workspace.promote("pumps", 1, alias="canary")
        workspace.promote("pumps", 1)
        yield workspace


def desired(workspace):
    (one,) = workspace.registry.serving()
    return one.loaded, one.alias, one.pinned


def test_what_is_served_is_said_in_words(pumps, shoal, shoal_json):
    assert desired(pumps) == (True, "champion", None)
    assert "no more" in shoal("fleets", "unload", "pumps").stdout
    assert shoal_json("fleets", "pin", "pumps:2")["pinned"] == 2
    assert shoal_json("fleets", "follow", "pumps@canary")["alias"] == "canary"
    assert desired(pumps) == (False, "canary", 2)
    (told,) = shoal_json("fleets", "serving")
    assert (told["fleet"], told["loaded"], told["alias"], told["pinned"]) == ("pumps", False, "canary", 2)
    assert "canary" in shoal("fleets", "serving").stdout
    shoal("fleets", "load", "pumps")
    shoal("fleets", "unpin", "pumps")
    shoal("fleets", "follow", "pumps@champion")
    assert desired(pumps) == (True, "champion", None)


@pytest.mark.parametrize(
    "words",
    [("pin", "pumps"), ("pin", "pumps@canary"), ("pin", "pumps:9"), ("follow", "pumps:1"), ("load", "nobody"),
     ("serving", "nobody")],
)  # fmt: skip
def test_what_is_no_such_wish_is_refused(pumps, shoal, words):
    before = desired(pumps)
    assert shoal("fleets", *words, code=1).stderr
    assert desired(pumps) == before


def test_a_fleet_is_described(pumps, shoal, shoal_json):
    said = shoal_json("fleets", "describe", "pumps", "--owner", "ops", "--tag", "wet", "--tag", "blue")
    assert (said["owner"], said["tags"]) == ("ops", ["blue", "wet"])
    assert shoal_json("fleets", "describe", "pumps", "--category", "water")["tags"] == ["blue", "wet"]
    assert "water" in shoal("fleets", "describe", "pumps", "--no-tags", "--description", "all").stdout
    assert "leave one of them out" in shoal("fleets", "describe", "pumps", "--tag", "dry", "--no-tags", code=1).stderr
    record = pumps.registry.fleet("pumps")
    assert (record.owner, record.category, record.description, record.tags) == ("ops", "water", "all", ())


def test_the_audit_tells_who_changed_what(pumps, shoal, shoal_json):
    shoal("fleets", "pin", "pumps:2")
    entries = shoal_json("audit", "--limit", "2")
    assert [entry["action"] for entry in entries] == ["serving.set", "alias.promote"]
    assert [entry["object"] for entry in shoal_json("audit", "--object", "pumps:2")] == ["pumps:2"]
    assert "alias.promote" in shoal("audit").stdout


def test_a_prediction_is_submitted_with_values_of_the_fleets_types(pumps, shoal, shoal_json):
    words = ["device=d1", "line=4", "x=0.5"]
    made = shoal_json(
        "predictions", "submit", "pumps:2", *words, "--ordering-key", "k", "--idempotency-key", "once", "--timeout", 60
    )["id"]
    record = pumps.predictions.one(made)
    asked = decode_request(record.request)
    assert (asked.model, asked.version, record.ordering_key) == ("pumps", "2", "k")
    assert {tensor.name: list(tensor.data) for tensor in asked.inputs} == {"device": ["d1"], "line": [4], "x": [0.5]}
    assert (record.expires_at - record.accepted_at).total_seconds() == pytest.approx(60, abs=1)
    again = shoal("predictions", "submit", "pumps:2", "--row", json.dumps({"device": "d1", "line": 4, "x": 0.5}),
                  "--ordering-key", "k", "--idempotency-key", "once", "--timeout", 60)  # fmt: skip
    assert again.stdout.strip() == made
    assert shoal_json("predictions", "show", made, "--timeout", "0.1")["state"] == "waiting"


def test_a_bare_name_is_what_is_served_also_without_a_champion(home, shoal, shoal_json):
    models = {("d1",): Ridge().fit([[0.0], [1.0]], [0.0, 2.0])}
    fleet = package.Fleet.from_estimators(keys=["device"], models=models, features=["x"], task="regression")
    with package.open(home) as workspace:
        workspace.promote("tanks", workspace.register(fleet, "tanks").version, alias="canary")
        workspace.follow("tanks", "canary")
        made = shoal_json("predictions", "submit", "tanks", "device=d1", "x=2")["id"]
        asked = decode_request(workspace.predictions.one(made).request)
    assert {tensor.name: list(tensor.data) for tensor in asked.inputs} == {"device": ["d1"], "x": [2.0]}


@pytest.mark.parametrize(
    "words", [["line=four"], ["x=much"], ["x"], ["device=d1", "--sink", "nowhere"], ["device=d1", "line=4"]]
)
def test_what_cannot_be_submitted_is_refused(pumps, shoal, words):
    assert shoal("predictions", "submit", "pumps", *words, code=1).stderr
    assert pumps.predictions.listed() == []


def test_times_that_no_key_can_be_taken_are_one_line(pumps, shoal):
    for words in (["create", "y", "--role", "reader", "--expires", "999999999d"], ["create", "y", "--role", "reader",
                  "--expires", "0s"], ["rotate", "none", "--overlap", "999999999d"]):  # fmt: skip
        said = shoal("keys", *words, code=1).stderr
        assert "cannot be taken for" in said
        assert said.count("\n") == 1
    assert pumps.registry.keys() == []


def test_a_port_that_is_not_opened_is_not_named(shoal):
    said = shoal("serve", "--no-grpc", "--grpc-port", "8081", code=1).stderr
    assert "--no-grpc does without the port that --grpc-port names" in said


def test_a_store_that_is_not_there_is_not_removed(pumps, shoal, shoal_json, tmp_path):
    assert "'nocat' has no store of its own" in shoal("stores", "remove", "nocat", code=1).stderr
    made = shoal_json("stores", "set", "water", tmp_path / "water")
    assert (made["category"], made["folder"]) == ("water", str(tmp_path / "water"))
    assert "New snapshots of water go to SHOAL_HOME" in shoal("stores", "remove", "water").stdout
