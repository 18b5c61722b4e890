import numpy as np
import pytest
from sklearn.linear_model import Ridge

from shoal.fleet import Fleet
from shoal.workspace import open_workspace


@pytest.fixture
def two_snapshots(home):
    """Snapshots 1 and 2 of ``pumps``: the second has another model for b, and c besides."""
    slopes = {"a": 1.0, "b": 2.0}
    with open_workspace(home, actor="ann") as workspace:
        for changed in ({}, {"b": 5.0, "c": 3.0}):
            X = np.arange(6.0).reshape(-1, 1)
            models = {(key,): Ridge().fit(X, slope * X[:, 0]) for key, slope in (slopes | changed).items()}
            fleet = Fleet.from_estimators(keys=["pump"], models=models, features=["x"], task="regression")
            workspace.register(fleet, "pumps")
        workspace.promote("pumps", 1)


@pytest.mark.usefixtures("registry")
def test_fleets_are_listed(shoal, shoal_json):
    (listed,) = shoal_json("fleets", "list", "--tag", "demo", "--category", "air")
    assert (listed["name"], listed["latest"], listed["aliases"]) == ("flights", 3, {"champion": 2})
    assert shoal_json("fleets", "list", "--tag", "other") == []
    assert "champion 2" in shoal("fleets", "list").stdout
    assert shoal("fleets", "list", "--category", "sea").stderr == "no fleets; train or register one\n"


@pytest.mark.usefixtures("registry")
def test_a_fleet_and_a_snapshot_are_shown(shoal, shoal_json):
    shown = shoal_json("fleets", "show", "flights")
    assert (shown["owner"], [s["version"] for s in shown["snapshots"]]) == ("ops", [3, 2, 1])
    snapshot = shoal_json("fleets", "show", "flights@champion")
    assert (snapshot["version"], snapshot["lineage"]["parent"], snapshot["lineage"]["parameters"]) == (
        2,
        1,
        {"alpha": 1},
    )
    assert "champion" in shoal("fleets", "show", "flights").stdout
    assert ["alpha", "2"] in [line.split() for line in shoal("fleets", "show", "flights:3").stdout.splitlines()]


@pytest.mark.usefixtures("registry")
def test_the_history_of_aliases_and_of_a_model(shoal, shoal_json):
    moves = shoal_json("fleets", "history", "flights")
    assert [(m["before"], m["after"], m["actor"], m["reason"]) for m in moves] == [
        (1, 2, "bob", "better"), (None, 1, "ann", "first"),
    ]  # fmt: skip
    assert shoal_json("fleets", "history", "flights", "--alias", "other") == []
    entries = shoal_json("fleets", "history", "flights", "--model", "dest=LAX")
    assert [(e["version"], e["model"]["metrics"]) for e in entries] == [(n, {"mae": 8.25}) for n in (3, 2, 1)]
    assert "mae 8.25" in shoal("fleets", "history", "flights", "--model", "dest=LAX").stdout
    assert "dest=JFK" in shoal("fleets", "history", "flights", "--model", "dest=JFK", code=1).stderr


@pytest.mark.usefixtures("two_snapshots")
def test_models_are_listed(shoal, shoal_json):
    listed = shoal_json("fleets", "models", "pumps:2")
    assert sorted(model["pump"] for model in listed) == ["a", "b", "c"]
    assert {model["family"] for model in listed} == {"affine"}
    assert len(shoal_json("fleets", "models", "pumps:2", "--limit", "2")) == 2
    shown = shoal("fleets", "models", "pumps", "--limit", "1")
    assert "1 more" in shown.stderr
    assert len(shown.stdout.splitlines()) == 2


@pytest.mark.usefixtures("two_snapshots")
def test_differences_are_listed(shoal, shoal_json):
    changes = shoal_json("fleets", "diff", "pumps@champion", "pumps:2")
    assert sorted((change["pump"], change["change"]) for change in changes) == [("b", "changed"), ("c", "added")]
    assert "have the same models" in shoal("fleets", "diff", "pumps", "pumps:1").stderr
    assert "no snapshot 9" in shoal("fleets", "diff", "pumps:1", "pumps:9", code=1).stderr
