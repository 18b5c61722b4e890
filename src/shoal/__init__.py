"""Shoal: inference for many models. A fleet is a table of parameters, and scoring is a join.

The public face::

    import shoal

    fleet = shoal.Fleet.from_estimators(keys=["device", "sensor"], models=models, features=["x"], task="anomaly")
    fleet.predict(frame)

    workspace = shoal.open()
    workspace.register(fleet, "pumps")
    workspace.promote("pumps", 1)
    workspace.score({"fleet": "pumps", "input": ["readings.parquet"], "output": "scores.parquet"})
"""

from shoal import errors
from shoal.fleet import Fleet, Model
from shoal.registry import Lineage
from shoal.table.facts import ModelFacts
from shoal.types import FeatureKind, KeyType, Outcome, Task
from shoal.workspace import Workspace
from shoal.workspace import open_workspace as open  # noqa: A004 - `shoal.open()` reads as what it does

__version__ = "0.1.0"

__all__ = [
    "FeatureKind",
    "Fleet",
    "KeyType",
    "Lineage",
    "Model",
    "ModelFacts",
    "Outcome",
    "Task",
    "Workspace",
    "__version__",
    "errors",
    "open",
]
