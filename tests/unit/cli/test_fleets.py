import datetime as dt

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from shoal.cli.model_address import model_address
from shoal.errors import InvalidInput
from shoal.fleet import Fleet
from shoal.table.keys import key_text
from shoal.types import KeyColumn, KeyType
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
    assert shoal("fleets", "list", "--category", "sea").stderr == "nothing matches --category sea\n"
    assert shoal("audit", "--object", "nope").stderr == "nothing matches --object nope\n"


def test_a_workspace_that_was_not_there_is_made_and_that_is_said(shoal, home):
    assert shoal("fleets", "list").stderr == f"made a new workspace in {home}\nno fleets; train or register one\n"
    assert shoal("fleets", "list").stderr == "no fleets; train or register one\n"


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
    assert shoal_json("fleets", "history", "flights", "--alias", "champion") == moves
    assert "no alias 'other', only champion" in shoal("fleets", "history", "flights", "--alias", "other", code=1).stderr
    entries = shoal_json("fleets", "history", "flights", "--model", "LAX")
    assert [(e["version"], e["model"]["metrics"]) for e in entries] == [(n, {"mae": 8.25}) for n in (3, 2, 1)]
    assert "mae 8.25" in shoal("fleets", "history", "flights", "--model", "LAX").stdout
    refused = shoal("fleets", "history", "flights", "--model", "JFK", code=1).stderr
    assert "never had a model of 'JFK'; write its key as --model NAME=VALUE" in refused
    assert "`shoal fleets models flights:3`" in refused


@pytest.mark.usefixtures("two_snapshots")
def test_the_history_of_a_model_by_the_names_of_its_key_columns(shoal, shoal_json):
    def versions(key):
        return [entry["version"] for entry in shoal_json("fleets", "history", "pumps", "--model", key)]

    assert versions("pump=b") == versions("b") == [2, 1]
    assert versions("pump=c") == [2]
    refused = shoal("fleets", "history", "pumps", "--model", "pump=z", code=1).stderr
    assert "never had a model of 'pump=z'" in refused
    assert (
        "no key column 'pomp'; its key is pump"
        in shoal("fleets", "history", "pumps", "--model", "pomp=b", code=1).stderr
    )


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


COLUMNS = [KeyColumn(name=kind.value, type=kind) for kind in KeyType]
"""One key column of every type, called as the type is."""


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("string=LAX", {"string": "LAX"}),
        ("string=a,b:c d,e=f,integer=7", {"string": "a,b:c d,e=f", "integer": 7}),
        ("date=2026-11-21,boolean=True", {"date": dt.date(2026, 11, 21), "boolean": True}),
        ("integer=007,string=*", {"integer": 7}),
        ("string=", {"string": ""}),
    ],
)
def test_a_key_by_names_is_the_registrys_text(typed, key):
    level = tuple(column.name for column in COLUMNS if column.name in key)
    assert model_address(COLUMNS, typed) == key_text(COLUMNS, level, tuple(key[name] for name in level))


@pytest.mark.parametrize(("typed", "said"), [("integer=x", "integer, which 'x' is not"), ("integer=1,e=f", "'1,e=f'")])
def test_a_key_that_does_not_fit_is_refused(typed, said):
    with pytest.raises(InvalidInput, match=said):
        model_address(COLUMNS, typed)
