"""Categories may keep their snapshots in folders of their own; wherever they are, they are found, and never lost."""

import shutil

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from shoal.errors import Conflict, NotFound
from shoal.fleet import Fleet
from shoal.workspace import open_workspace


def fleet(slope):
    X = np.arange(6.0).reshape(-1, 1)
    models = {(key,): LinearRegression().fit(X, X[:, 0] * slope + i) for i, key in enumerate("ab")}
    return Fleet.from_estimators(keys=["k"], models=models, features=["x"], task="regression")


@pytest.fixture
def workspace(tmp_path):
    with open_workspace(tmp_path / "home") as workspace:
        yield workspace


def answers(workspace, name):
    return workspace.fleet(name).predict({"k": ["a", "b"], "x": [2.0, 2.0]})["prediction"].to_list()


def snapshots(folder):
    return sorted(path.stem for path in (folder / "snapshots").glob("*.json"))


def test_new_snapshots_of_a_category_go_to_its_store(workspace, tmp_path):
    workspace.set_store("pumps", tmp_path / "pumps")
    own = workspace.register(fleet(2.0), "p", category="pumps")
    other = workspace.register(fleet(3.0), "q", category="fans")
    assert snapshots(tmp_path / "pumps") == [own.digest]
    assert snapshots(tmp_path / "home" / "store") == [other.digest]
    assert answers(workspace, "p:1") == pytest.approx([4.0, 5.0])
    assert answers(workspace, "q:1") == pytest.approx([6.0, 7.0])


def test_older_snapshots_stay_and_are_found(workspace, tmp_path):
    workspace.register(fleet(2.0), "p", category="pumps")
    workspace.set_store("pumps", tmp_path / "pumps")
    workspace.register(fleet(3.0), "p")
    workspace.register(fleet(4.0), "p", category="fans")
    assert answers(workspace, "p:1") == pytest.approx([4.0, 5.0])
    assert answers(workspace, "p:2") == pytest.approx([6.0, 7.0])
    assert answers(workspace, "p:3") == pytest.approx([8.0, 9.0])


def test_only_a_store_that_there_is_can_be_given_up(workspace, tmp_path):
    workspace.set_store("pumps", tmp_path / "pumps")
    with pytest.raises(NotFound, match="'fans' has no store of its own; see `shoal stores list`"):
        workspace.set_store("fans", None)
    workspace.set_store("pumps", None)
    with pytest.raises(NotFound):
        workspace.set_store("pumps", None)


def test_a_store_in_use_is_not_given_up(workspace, tmp_path):
    workspace.set_store("pumps", tmp_path / "pumps")
    snapshot = workspace.register(fleet(2.0), "p", category="pumps")
    workspace.promote("p", snapshot.version)
    with pytest.raises(Conflict, match="copy that folder"):
        workspace.set_store("pumps", None)
    with pytest.raises(Conflict, match="copy that folder"):
        workspace.set_store("pumps", tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "pumps", tmp_path / "home" / "store", dirs_exist_ok=True)
    workspace.set_store("pumps", None)
    assert answers(workspace, "p") == pytest.approx([4.0, 5.0])


def test_garbage_is_collected_in_every_store(workspace, tmp_path):
    workspace.set_store("pumps", tmp_path / "pumps")
    for slope in (2.0, 3.0, 4.0):
        workspace.register(fleet(slope), "p", category="pumps")
    workspace.promote("p", 2)
    doomed = workspace.gc(dry_run=True)
    assert len(snapshots(tmp_path / "pumps")) == 3
    workspace.gc()
    assert len(snapshots(tmp_path / "pumps")) == 2
    assert answers(workspace, "p:2") == pytest.approx([6.0, 7.0])
    assert answers(workspace, "p:3") == pytest.approx([8.0, 9.0])
    assert doomed.size_bytes > 0


def test_nothing_is_deleted_while_a_store_is_away(workspace, tmp_path):
    workspace.set_store("pumps", tmp_path / "pumps")
    workspace.register(fleet(2.0), "p", category="pumps")
    workspace.register(fleet(3.0), "q")
    kept = snapshots(tmp_path / "home" / "store")
    (tmp_path / "pumps").rename(tmp_path / "unmounted")
    with pytest.raises(NotFound, match="mount the store"):
        workspace.gc()
    with pytest.raises(NotFound, match="mount the store"):
        workspace.fleet("p:1")
    (tmp_path / "unmounted").rename(tmp_path / "pumps")
    assert snapshots(tmp_path / "home" / "store") == kept
    assert answers(workspace, "p:1") == pytest.approx([4.0, 5.0])
