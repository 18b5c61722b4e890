"""One serving spec, requests and jobs: the same rows get the same answers, outcomes and reasons, to the bit."""

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import shoal
from shoal import Fleet, Workspace
from shoal.types import FeatureKind
from tests.system.parity import require_same, scored, served
from tests.unit.serving.fleets import FLEETS, rows_for

ODD = [float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 5e-324, 1e308, -1e308, 1e-300, 2.0, None]

EVERYTHING = {
    "regression": {
        "checks": {
            "inputs": {
                "x": {"type": "number", "min": -1.5, "max": 1.5},
                "y": {"not_null": True},
                "z": {"max": 1.8},
                "device": {"pattern": "[ab].*|nobody"},
                "sensor": {"one_of": ["s1", "s2"]},
            },
            "outputs": {"prediction": {"min": -2, "max": 2}, "band": {"one_of": ["low", "mid"]}},
        },
        "rules": [
            {"set": {"band": "CASE WHEN prediction > 0.5 THEN 'high' WHEN prediction < 0 THEN 'low' ELSE 'mid' END"}},
            {"set": {"whole": "CAST(prediction * 100 AS BIGINT)", "ratio": "1 / (CAST(x * 3 AS BIGINT))"}},
            {"set": {"prediction": "prediction * 2"}, "when": "x > 0.3", "name": "double"},
            {"set": {"seen": True, "text": "device || '/' || sensor", "told": "outcome"}, "rows": "all"},
            {"set": {"failing": "CAST(device AS BIGINT)"}, "when": "device = 'b:1' AND y > 0.8"},
        ],
    },
    "texts": {
        "checks": {
            "inputs": {"shop": {"min": 0}, "x": {"type": "integer"}},
            "outputs": {"probability_blue": {"max": 0.4}, "prediction": {"one_of": ["blue", "green", "red"]}},
            "on_input": "report",
        },
        "threshold": {"label": "red", "probability": 0.3},
        "rules": {"sure": "probability_red > 0.35", "label": "UPPER(prediction)"},
    },
    "integers": {
        "checks": {"outputs": {"prediction": {"max": 5}}, "on_output": "report"},
        "threshold": {"label": 8, "probability": 0.25},
        "rules": {"more": "prediction + 1"},
    },
    "booleans": {"threshold": {"label": True, "probability": 0.6}, "rules": {"other": "NOT prediction"}},
    "anomaly": {
        "checks": {
            "inputs": {"day": {"one_of": ["2026-01-01"]}, "night": {"not_null": True}, "x": {"max": 2}},
            "outputs": {"score": {"min": -1}, "is_anomaly": {"one_of": [False, True]}},
        },
        "threshold": {"score": -0.2},
        "rules": [{"set": {"alarm": "is_anomaly AND NOT night"}, "rows": "all"}, {"set": {"year": "EXTRACT(YEAR FROM day)"}}],
    },
    "single": {
        "checks": {"inputs": {"carrier": {"pattern": "[A-Z]{2}", "not_null": True}}, "on_input": "report"},
        "rules": {"long": "LENGTH(carrier)", "as_number": "TRY_CAST(carrier AS DOUBLE)"},
    },
}  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path):
    with shoal.open(tmp_path / "home", actor="ada") as opened:
        yield opened


def published(workspace: Workspace, fleet: Fleet, spec: object) -> Fleet:
    workspace.promote(fleet.name, workspace.register(fleet).version)
    workspace.set_serving(fleet.name, spec)  # type: ignore[arg-type]
    return workspace.fleet(fleet.name)


def odd_rows(fleet: Fleet, count: int, seed: int) -> pl.DataFrame:
    """Random rows, with every odd value in every numeric feature."""
    rng = np.random.default_rng(seed)
    frame = rows_for(fleet, rng, count)
    for feature in fleet.features:
        if feature.kind is FeatureKind.NUMERIC:
            values = frame[feature.name].to_list()
            for row in rng.choice(count, size=count // 4, replace=False):
                values[row] = ODD[int(rng.integers(len(ODD)))]
            frame = frame.with_columns(pl.Series(feature.name, values, dtype=pl.Float64))
    return frame


@pytest.mark.parametrize("kind", FLEETS)
@pytest.mark.parametrize("seed", [0, 1])
def test_checks_thresholds_and_rules_are_the_same(workspace: Workspace, tmp_path: Path, kind: str, seed: int) -> None:
    fleet = published(workspace, FLEETS[kind](), EVERYTHING[kind])
    frame = odd_rows(fleet, 240, seed)
    server = served(workspace, fleet.name, frame)
    job, _ = scored(workspace, fleet.name, frame, tmp_path / "job", serving=True)
    require_same(job, server)
    assert {"scored", "invalid"} <= set(server["outcome"])
    assert ("failed" in server["outcome"]) == (kind in ("regression", "anomaly"))
