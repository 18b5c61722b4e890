"""Shoal: inference for many models. A fleet is a table of parameters, and scoring is a join.

The public face::

    import shoal

    fleet = shoal.Fleet.from_estimators(keys=["device", "sensor"], models=models, features=["x"], task="anomaly")
    fleet.predict(frame)

    workspace = shoal.open()
    workspace.register(fleet, "pumps")
    workspace.promote("pumps", 1)
    workspace.score({"fleet": "pumps", "input": ["readings.parquet"], "output": "scores.parquet"})

    client = shoal.connect("http://127.0.0.1:8080")
    client.fleet("pumps").predict(frame)

Names are imported when they are first used, so that ``shoal --help`` and a training worker need not wait for all.
"""

import importlib
from typing import TYPE_CHECKING

from shoal import errors

if TYPE_CHECKING:
    from shoal.client import connect, connect_async
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
    "connect",
    "connect_async",
    "errors",
    "open",
]

_HOMES = {
    "FeatureKind": ("shoal.types", "FeatureKind"),
    "Fleet": ("shoal.fleet", "Fleet"),
    "KeyType": ("shoal.types", "KeyType"),
    "Lineage": ("shoal.registry", "Lineage"),
    "Model": ("shoal.fleet", "Model"),
    "ModelFacts": ("shoal.table.facts", "ModelFacts"),
    "Outcome": ("shoal.types", "Outcome"),
    "Task": ("shoal.types", "Task"),
    "Workspace": ("shoal.workspace", "Workspace"),
    "connect": ("shoal.client", "connect"),
    "connect_async": ("shoal.client", "connect_async"),
    "open": ("shoal.workspace", "open_workspace"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value: object = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
