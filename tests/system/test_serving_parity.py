"""One serving spec, requests and jobs: the same rows get the same answers, outcomes and reasons, to the bit."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from score_process import kill

import shoal
from shoal import Fleet, Workspace
from shoal.errors import InvalidSpec, TooManyErrors
from shoal.requests.spec import ServingSpec
from shoal.types import FeatureKind
from tests.system.parity import SHARD_ROWS, answers_of, bits, require_same, scored, served
from tests.unit.serving.fleets import FLEETS, anomalies, pumps, rows_for

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
        "rules": [
            {"set": {"alarm": "is_anomaly AND NOT night"}, "rows": "all"},
            {"set": {"year": "EXTRACT(YEAR FROM day)"}},
        ],
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
    assert ("failed" in server["outcome"]) == (kind in ("regression", "texts", "anomaly"))


def test_a_rejected_request_is_an_invalid_row(workspace: Workspace, tmp_path: Path) -> None:
    """As if each row had been a request of its own; a job as a whole is refused by ``max_errors``."""
    checks = {"inputs": {"x": {"max": 0.5}, "y": {"not_null": True}}, "on_input": "reject"}
    fleet = published(workspace, pumps(), {"checks": checks, "rules": {"double": "prediction * 2"}})
    frame = odd_rows(fleet, 100, 0)
    server = served(workspace, fleet.name, frame, one_by_one=True)
    del server["snapshot"]  # a refusal names none
    job, summary = scored(workspace, fleet.name, frame, tmp_path / "job", serving=True)
    require_same(job, server)
    assert summary.ledger.totals.counts.invalid > 20
    with pytest.raises(TooManyErrors):
        scored(workspace, fleet.name, frame, tmp_path / "strict", serving=True, max_errors=0)
    assert not (tmp_path / "strict" / "out").exists()


def test_without_a_word_of_serving_a_job_scores_as_ever(workspace: Workspace, tmp_path: Path) -> None:
    fleet = published(workspace, pumps(), EVERYTHING["regression"])
    frame = odd_rows(fleet, 100, 0)
    plain, _ = scored(workspace, fleet.name, frame, tmp_path / "plain")
    assert "band" not in plain
    no, _ = scored(workspace, fleet.name, frame, tmp_path / "no", serving=False)
    workspace.set_serving(fleet.name, {})
    nothing, _ = scored(workspace, fleet.name, frame, tmp_path / "nothing", serving=True)
    for other in (no, nothing):
        assert {name: bits(v) for name, v in other.items() if name != "_file"} == {
            name: bits(v) for name, v in plain.items() if name != "_file"
        }


def test_a_spec_of_the_jobs_own_is_applied_instead(workspace: Workspace, tmp_path: Path) -> None:
    """What is about requests only is not looked at, not even whether it could be served."""
    mine = EVERYTHING["regression"] | {
        "cache": {"ttl_s": 5, "store": "nowhere"},
        "limits": {"max_rows": 1},
        "store": "durable",
        "sink": "none",
    }
    fleet = published(workspace, pumps(), EVERYTHING["regression"])
    frame = odd_rows(fleet, 100, 0)
    server = served(workspace, fleet.name, frame)
    workspace.set_serving(fleet.name, {"rules": {"other": "1"}})
    for number, serving in enumerate((mine, ServingSpec(rules=()), {"rules": {"own": "prediction"}})):
        job, _ = scored(workspace, fleet.name, frame, tmp_path / f"job-{number}", serving=serving)
        if number == 0:
            require_same(job, server)
        assert ("own" in job) == (number == 2)
        assert "other" not in job


def test_rules_may_name_the_folders_of_the_output(workspace: Workspace, tmp_path: Path) -> None:
    fleet = published(
        workspace,
        anomalies(),
        {"rules": [{"set": {"verdict": "CASE WHEN is_anomaly THEN 'odd' ELSE 'fine' END"}, "rows": "all"}]},
    )
    frame = odd_rows(fleet, 80, 0)
    frame.write_parquet(tmp_path / "in.parquet")
    told = {
        "fleet": fleet.name,
        "input": str(tmp_path / "in.parquet"),
        "output": str(tmp_path / "out"),
        "serving": True,
    }
    workspace.score({**told, "partition": "{verdict}/"})
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["fine", "odd"]
    found = pl.read_parquet(tmp_path / "out" / "odd" / "*.parquet", hive_partitioning=False)
    assert found["is_anomaly"].all()


def test_rows_that_no_request_could_bring_are_invalid(workspace: Workspace, tmp_path: Path) -> None:
    """A text where a number belongs is not nothing to a rule; and what could not be read says so."""
    rules = [{"set": {"size": "CASE WHEN x > 1 THEN 'large' ELSE 'small' END"}, "rows": "all"}]
    checks = {"inputs": {"x": {"not_null": True}, "y": {"max": 1}}}
    published(workspace, pumps(), {"checks": checks, "rules": rules})
    lines = [
        "device,sensor,x,y,z",
        "a,s1,0.5,0.5,0.5",
        "a,s1,much,0.5,0.5",
        "nobody,s9,much,7,1",
        "a,s1,,0.5,1",
        "a,s1,0.5,7,1",
    ]
    lines.append('a,s1,"0.5",0.5,1,6,7,8')
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    told = {
        "fleet": "pumps",
        "input": str(tmp_path / "in.csv"),
        "output": str(tmp_path / "out.parquet"),
        "serving": True,
    }
    summary = workspace.score(told)  # type: ignore[arg-type]
    job = answers_of(pl.read_parquet(tmp_path / "out.parquet"))
    assert job["outcome"] == ["scored"] + ["invalid"] * 5
    assert job["reason"] == [
        None, "wrong type in 'x'", "wrong type in 'x'", "'x' is missing", "'y' is 7, above 1", "unreadable line",
    ]  # fmt: skip
    assert summary.ledger.balanced


SPECS = (
    {"rules": {"v": "prediction + 1"}, "checks": {"inputs": {"x": {"max": 1}}}},
    {"rules": {"v": "prediction + 2"}},
)


@pytest.mark.parametrize("policy", ["retry-failed", "retry-all"])
@pytest.mark.parametrize("step", ["planned", "finished", "commit"])
def test_resuming_applies_the_definition_that_the_run_has_pinned(
    workspace: Workspace, tmp_path: Path, policy: str, step: str
) -> None:
    fleet = published(workspace, pumps(), SPECS[0])
    frame = odd_rows(fleet, 400, 0)
    first, _ = scored(workspace, fleet.name, frame, tmp_path / "first", serving=True)
    told = {
        "fleet": fleet.name, "input": str(tmp_path / "first" / "in"), "output": str(tmp_path / "out"),
        "shard_rows": SHARD_ROWS, "serving": True, "failure_policy": policy,
    }  # fmt: skip
    kill(tmp_path / "home", told, step, 3 if step == "finished" else 1)
    workspace.set_serving(fleet.name, SPECS[1])
    assert workspace.resume(workspace.runs()[0].id).ledger.balanced
    found = pl.concat(pl.read_parquet(path) for path in sorted((tmp_path / "out").glob("part-*.parquet")))
    assert {name: bits(v) for name, v in answers_of(found).items()} == {name: bits(v) for name, v in first.items()}
    later, _ = scored(workspace, fleet.name, frame, tmp_path / "later", serving=True)
    assert set(later["outcome"]) != {"scored"}
    assert bits(later["v"]) == bits([None if v is None else v + 2 for v in later["prediction"]])  # type: ignore[operator]
    require_same(later, served(workspace, fleet.name, frame))


def test_rows_that_were_left_meet_the_definition_of_the_run_that_takes_them_on(
    workspace: Workspace, tmp_path: Path
) -> None:
    """They belong to the job, whatever it is told to apply by then."""
    fleet = published(workspace, pumps(), SPECS[0])
    frame = odd_rows(fleet, 60, 0)
    (tmp_path / "in").mkdir()
    for name in "ab":
        frame.write_parquet(tmp_path / "in" / f"{name}.parquet", use_pyarrow=True)
    bad = tmp_path / "in" / "a.parquet"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    told = {
        "fleet": fleet.name, "input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "if_exists": "append",
        "failure_policy": "leave", "serving": True, "shard_rows": 60,
    }  # fmt: skip
    first = workspace.score(told)  # type: ignore[arg-type]
    assert first.ledger.totals.counts.failed == 60
    workspace.set_serving(fleet.name, SPECS[1])
    bad.write_bytes(whole)
    second = workspace.score(told)  # type: ignore[arg-type]
    assert second.ledger.balanced
    found = pl.read_parquet(tmp_path / "out" / f"run={second.run}" / "part-*.parquet", hive_partitioning=False)
    assert bits(found["v"].to_list()) == bits([None if v is None else v + 2 for v in found["prediction"]])


def test_a_spec_that_does_not_fit_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    fleet = published(workspace, pumps(), {})
    for wrong, words in (
        ({"checks": {"inputs": {"nothing": {"min": 1}}}}, "no such column"),
        ({"rules": {"prediction": "'text'"}}, "is String"),
        ({"ruels": {}}, "did you mean 'rules'"),
        ({"lookup": {"timeout_ms": 5}}, "not trained with a lookup"),
    ):
        with pytest.raises(InvalidSpec, match=words):
            scored(workspace, fleet.name, odd_rows(fleet, 10, 0), tmp_path / words, serving=wrong)
    assert workspace.runs() == []
