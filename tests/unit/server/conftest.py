import numpy as np
import pytest
from grpc_world import LOOKED_UP, SLOW_S
from sklearn.linear_model import Ridge

from shoal.fleet import Fleet
from shoal.serving import contact
from shoal.workspace import open_workspace
from tests.lookup_servers import HttpServer


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """A busy machine may keep a process from asking the registry for seconds; it is not away for that."""
    monkeypatch.setattr(contact, "SLOW_S", 60.0)


@pytest.fixture
def workspace(tmp_path):
    """A workspace with ``pumps``: one model by a text, of one feature."""
    X = np.random.default_rng(3).normal(size=(20, 1))
    with open_workspace(tmp_path / "home") as workspace:
        pumps = Fleet.from_estimators(
            keys=["id"], models={("a",): Ridge().fit(X, X[:, 0])}, features=["x"], task="regression", name="pumps"
        )
        workspace.promote("pumps", workspace.register(pumps).version)
        yield workspace


@pytest.fixture
def slow_lookup(workspace, tmp_path):
    """The fleet's feature comes from a service that takes a minute for it."""
    (tmp_path / "source").mkdir()
    with HttpServer({"a": {"x": 0.5}}, tmp_path / "source") as service:
        service.behave(f"slow {SLOW_S}")
        hosts = [f"127.0.0.1:{service.port}"]
        workspace.set_source("remote", {"kind": "http", "url": f"{service.url}/{{id}}", "hosts": hosts})
        workspace.set_serving("pumps", LOOKED_UP)
        yield service
