"""What a damaged snapshot costs: itself, and nothing that comes after it."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import shoal
from shoal.errors import InvalidArtifact


def fleet(slope):
    X = np.random.default_rng(0).normal(size=(20, 1))
    models = {("a",): Ridge().fit(X, slope * X[:, 0])}
    return shoal.Fleet.from_estimators(keys=["device"], models=models, features=["x"], task="regression", name="pumps")


def test_the_next_snapshot_can_be_registered_over_a_damaged_one(tmp_path):
    with shoal.open(tmp_path) as workspace:
        workspace.register(fleet(1.0))
        for path in (tmp_path / "store" / "blocks").iterdir():
            path.chmod(0o600)
            path.write_bytes(b"not what it was")
        with pytest.raises(InvalidArtifact):
            workspace.fleet("pumps:1")
        assert workspace.register(fleet(2.0)).version == 2
        workspace.promote("pumps", 2)
        assert len(workspace.fleet("pumps")) == 1
