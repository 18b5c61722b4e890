import numpy as np
import pytest
from sklearn.linear_model import Ridge

from shoal.fleet import Fleet
from shoal.ledger import Ledger
from shoal.workspace import open_workspace


@pytest.fixture
def four_snapshots(home):
    with open_workspace(home, actor="ann") as workspace:
        for slope in range(1, 5):
            X = np.arange(6.0).reshape(-1, 1)
            models = {("a",): Ridge().fit(X, slope * X[:, 0])}
            workspace.register(
                Fleet.from_estimators(keys=["pump"], models=models, features=["x"], task="regression"), "pumps"
            )
        workspace.promote("pumps", 1)


@pytest.mark.usefixtures("four_snapshots")
def test_only_what_nothing_refers_to_is_deleted(shoal, shoal_json, database, home):
    options = {"kind": "score", "spec": {}, "inputs": (), "shards": (), "actor": "ann"}
    Ledger(database).create_run(fleet="pumps", version=2, **options)
    planned = shoal_json("gc", "--dry-run")
    assert planned["dry_run"]
    assert planned["size_bytes"] > 0
    shoal("fleets", "models", "pumps:3")
    collected = shoal_json("gc")
    assert (collected["files"], collected["size_bytes"]) == (planned["files"], planned["size_bytes"])
    for version in (1, 2, 4):
        shoal("fleets", "models", f"pumps:{version}")
    assert "were collected on" in shoal("fleets", "models", "pumps:3", code=1).stderr
    assert "were collected on" in shoal("promote", "pumps:3", code=1).stderr
    assert shoal("gc").stdout == "0 files deleted, 0 bytes\n"
    assert home.is_dir()
