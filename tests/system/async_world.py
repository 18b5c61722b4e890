"""A workspace for tests of requests that nobody waits for."""

from pathlib import Path

import numpy as np
from sklearn.linear_model import Ridge

from shoal.fleet import Fleet
from shoal.settings import Settings
from shoal.workspace import Workspace


def furnish(home: Path, url: str) -> Workspace:
    """A workspace with a fleet that answers ``a + b`` plus the device's number, and a sink beside its home."""
    X = np.random.default_rng(0).normal(size=(30, 2))
    models = {(f"d{number}",): Ridge(alpha=1e-9).fit(X, X.sum(axis=1) + number) for number in range(5)}
    fleet = Fleet.from_estimators(keys=["device"], models=models, features=["a", "b"], task="regression", name="pumps")
    workspace = Workspace(Settings(home=home, database_url=url, actor="ada"))
    workspace.promote("pumps", workspace.register(fleet).version)
    workspace.set_sink("lake", {"kind": "parquet_sink", "folder": str(home.parent / "lake")})
    return workspace
