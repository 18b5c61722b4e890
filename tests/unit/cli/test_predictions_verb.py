"""``shoal predictions``: what people read, and what programs do."""

import numpy as np
import pytest

import shoal as package
from shoal.jobs.states import PredictionState
from shoal.ledger import NewPrediction, PredictionKind, PredictionResult
from shoal.serving.messages import Datatype, InferenceResponse, Tensor
from shoal.serving.payloads import encode_response

RESPONSE = InferenceResponse(
    model_name="sales",
    model_version="3",
    outputs=(
        Tensor(name="prediction", datatype=Datatype.BYTES, shape=(2,), data=["late", None]),
        Tensor(name="probability", datatype=Datatype.FP64, shape=(2, 2), data=np.array([0.25, 0.75, np.nan, np.nan])),
        Tensor(name="reason", datatype=Datatype.BYTES, shape=(2,), data=[None, None]),
    ),
)


@pytest.fixture
def ids(home):
    """One that is done, a durable result, and one that failed for want of a sink."""
    given = {"fleet": "sales", "principal": "ann", "request_id": "r", "request": b"q"}
    with package.open(home) as workspace:
        workspace.registry.create_fleet("sales", actor="ann")
        predictions = workspace.predictions
        done, failed = predictions.accept([NewPrediction(kind=PredictionKind.DEFERRED, **given) for _ in range(2)])
        one, two = predictions.claim(["sales"], owner="w", lease_s=30, limit=2)
        again = PredictionResult(claim=two, state=PredictionState.WAITING, error="no answer", delay_s=0.001)
        answered = PredictionResult(claim=one, state=PredictionState.DONE, answer=encode_response(RESPONSE))
        predictions.settle([answered, again], keep_s=1000, lease_s=30)
        [two] = predictions.claim(["sales"], owner="w", lease_s=30, limit=2)
        failing = PredictionResult(claim=two, state=PredictionState.FAILED, error="no answer")
        predictions.settle([failing], keep_s=1000, lease_s=30)
        kept = NewPrediction(
            kind=PredictionKind.STORED, answer=encode_response(RESPONSE), idempotency_key="stored:digest", **given
        )
        [stored] = predictions.store([kept])
    return {"done": done, "failed": failed, "stored": stored}


def test_predictions_are_listed_by_kind_and_state(ids, shoal, shoal_json):
    listed = shoal_json("predictions", "list")
    assert [one["id"] for one in listed] == [ids[name] for name in ("stored", "failed", "done")]
    assert "due_at" not in listed[1]
    assert "idempotency_key" not in listed[0]
    for kind, names in (("stored", ["stored"]), ("deferred", ["failed", "done"])):
        assert [one["id"] for one in shoal_json("predictions", "list", "--kind", kind)] == [ids[name] for name in names]
    header, *lines = shoal("predictions", "list").stdout.splitlines()
    assert header.split()[:3] == ["ID", "KIND", "STATE"]
    assert [line.split()[:3] for line in lines] == [
        [ids["stored"], "stored", "done"],
        [ids["failed"], "deferred", "failed"],
        [ids["done"], "deferred", "done"],
    ]


def test_predictions_are_listed_by_time(ids, shoal, shoal_json):
    at = shoal_json("predictions", "show", ids["failed"])["accepted_at"]
    assert [one["id"] for one in shoal_json("predictions", "list", "--since", at)][-1] != ids["stored"]
    assert shoal_json("predictions", "list", "--until", "2026-01-01") == []
    assert len(shoal_json("predictions", "list", "--since", "2026-01-01T00:00:00+01:00")) == 3
    assert "write e.g." in shoal("predictions", "list", "--since", "yesterday", code=2).stderr


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+10:00"])
def test_times_that_utc_has_not_are_wrong_usage(ids, shoal, text):
    for words in (["list", "--since", text], ["list", "--until", text], ["purge", "sales", "--before", text]):
        assert "write e.g." in shoal("predictions", *words, code=2).stderr


def test_results_are_forgotten_and_tried_again_of_fleets_that_there_are(ids, shoal, shoal_json):
    for words in (["purge", "zz", "--before", "2999-01-01"], ["replay", "--failed", "--fleet", "zz"]):
        assert "there is no fleet 'zz'" in shoal("predictions", *words, code=1).stderr
    assert len(shoal_json("predictions", "list", "--state", "failed")) == 1
    assert shoal_json("predictions", "replay", "--failed", "--fleet", "sales") == {"waiting": 1}


def test_durable_results_are_found_by_request_and_forgotten(ids, shoal, shoal_json):
    [found] = shoal_json("predictions", "request", "r")
    assert found["id"] == ids["stored"]
    assert found["response"]["model_version"] == "3"
    assert shoal_json("predictions", "request", "r", "--principal", "bob") == []
    assert ids["stored"] in shoal("predictions", "request", "r").stdout
    assert "no durable result" in shoal("predictions", "request", "other").stderr
    assert shoal_json("predictions", "purge", "sales", "--before", "2026-01-01") == {"purged": 0}
    assert "--before" in shoal("predictions", "purge", "sales", code=2).stderr
    assert shoal("predictions", "purge", "sales", "--before", "2999-01-01").stdout == "1 result is forgotten\n"
    assert shoal_json("predictions", "request", "r") == []
    assert len(shoal_json("predictions", "list")) == 2


def test_a_response_is_shown_row_by_row(ids, shoal, shoal_json):
    text = shoal("predictions", "show", ids["stored"]).stdout
    assert "stored:digest" not in text
    _, _, shown = text.partition("sales, snapshot 3\n")
    assert [line.split() for line in shown.splitlines()] == [
        ["PREDICTION", "PROBABILITY"],
        ["late", "0.25,", "0.75"],
        ["nan,", "nan"],
    ]
    response = shoal_json("predictions", "show", ids["done"])["response"]
    assert response["outputs"][1]["data"] == [0.25, 0.75, None, None]


def test_only_what_failed_is_replayed(ids, shoal):
    refused = shoal("predictions", "replay", ids["done"], code=1).stderr
    assert "is done; only one that failed or expired can be replayed" in refused
    assert shoal("predictions", "replay", "--failed").stdout == "1 prediction waits again\n"
    assert "is waiting; only one" in shoal("predictions", "replay", ids["failed"], code=1).stderr
    assert "0 predictions wait again" in shoal("predictions", "replay", "--failed").stdout
