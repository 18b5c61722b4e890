"""``shoal predict``: one row, and what it was not told."""

import json

import pytest
from sklearn.linear_model import LinearRegression

from shoal.fleet import Fleet
from shoal.workspace import open_workspace


@pytest.fixture
def flights(home):
    """A fleet with a model for one pair of airports and none for all others."""
    models = {("JFK", "LAX"): LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])}
    fleet = Fleet.from_estimators(keys=["origin", "dest"], models=models, features=["x"], task="regression")
    with open_workspace(home) as workspace:
        workspace.register(fleet, "flights")
    return "flights:1"


def test_a_row_is_predicted_without_a_word_on_stderr(shoal, flights):
    done = shoal("predict", flights, "origin=JFK", "dest=LAX", "x=2", "--json")
    assert (json.loads(done.stdout)["prediction"], done.stderr) == (pytest.approx(5), "")


def test_keys_that_are_not_given_are_mentioned(shoal, flights):
    done = shoal("predict", flights, "dest=LAX", "x=2", "--json")
    assert json.loads(done.stdout)["outcome"] == "no_model"
    assert done.stderr == "warning: not given and taken as missing: key origin; give origin=VALUE\n"
    assert "key origin, dest; give origin=VALUE dest=VALUE" in shoal("predict", flights, "x=2").stderr


def test_a_key_that_is_null_on_purpose_is_not_mentioned(shoal, flights):
    row = json.dumps({"origin": None, "dest": "LAX", "x": 2})
    assert shoal("predict", flights, "--row", row).stderr == ""


def test_a_column_that_the_fleet_has_not_is_an_error(shoal, flights):
    stderr = shoal("predict", flights, "destination=LAX", code=1).stderr
    assert "no column ['destination']; it takes ['origin', 'dest', 'x']" in stderr
