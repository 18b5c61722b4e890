"""What a damaged snapshot costs: itself, and nothing that comes after it."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import shoal
from shoal.errors import Conflict, InvalidArtifact


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


def test_nobody_goes_back_to_a_snapshot_that_does_not_open(tmp_path):
    with shoal.open(tmp_path) as workspace:
        blocks = tmp_path / "store" / "blocks"
        for slope in (1.0, 2.0):
            before = set(blocks.iterdir()) if blocks.exists() else set()
            workspace.promote("pumps", workspace.register(fleet(slope)).version)
        (first,) = before
        content = first.read_bytes()
        first.chmod(0o600)
        first.write_bytes(b"not what it was")
        with pytest.raises(Conflict, match="pumps:1 cannot be opened") as refused:
            workspace.rollback("pumps")
        assert first.name in refused.value.detail
        assert first.name not in refused.value.message
        assert [move.after for move in workspace.registry.alias_history("pumps")] == [2, 1]
        first.write_bytes(content)
        assert workspace.rollback("pumps", actor="bob").actor == "bob"
        assert workspace.fleet("pumps").version == 1


def test_a_rollback_that_is_sent_again_does_not_look_further_back(tmp_path):
    """What lies beneath is damaged; the first time went back to what is whole, and that is what is told again."""
    with shoal.open(tmp_path) as workspace:
        blocks = tmp_path / "store" / "blocks"
        workspace.promote("pumps", workspace.register(fleet(1.0)).version)
        (damaged,) = blocks.iterdir()
        for slope in (2.0, 3.0):
            workspace.promote("pumps", workspace.register(fleet(slope)).version)
        damaged.chmod(0o600)
        damaged.write_bytes(b"not what it was")
        first = workspace.rollback("pumps", idempotency_key="once")
        assert first.after == 2
        assert workspace.rollback("pumps", idempotency_key="once") == first
        with pytest.raises(Conflict, match="pumps:1 cannot be opened"):
            workspace.rollback("pumps", idempotency_key="twice")
