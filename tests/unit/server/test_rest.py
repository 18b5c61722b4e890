"""The REST door answers as the estimators do, in every form that the protocol has."""

import gzip
import json
import struct
import time
import zlib
from urllib.parse import quote

import numpy as np
import pytest
from rest_world import (
    BODY_BYTES,
    CLASSIFIER,
    COLUMN,
    DETECTOR,
    JSON,
    ODD,
    RIDGES,
    ROWS,
    expected,
    fleets,
    make_home,
    request,
    rest_world,
    tensor,
)  # fmt: skip

from shoal.server.permissions import TABLE
from shoal.workspace import open_workspace

NAMES = ("ridges", "labels", "column", "alarms")
INFER = "/v2/models/ridges/infer"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rest") / "home"
    make_home(folder)
    return folder


@pytest.fixture(scope="module")
def rest(home):
    with rest_world(home, NAMES) as world:
        yield world


def text(value):
    raw = value.encode()
    return struct.pack("<I", len(raw)) + raw


def binary(inputs, contents, **more):
    """A body with these contents behind the JSON, and the header that tells where they begin."""
    described = [
        {
            key: value
            for key, value in {**one, "parameters": {"binary_data_size": len(content)}}.items()
            if key != "data"
        }
        for one, content in zip(inputs, contents, strict=True)
    ]
    head = json.dumps({"inputs": described, **more}).encode()
    return head + b"".join(contents), {"inference-header-content-length": str(len(head))}


def parts(told):
    """The JSON of a binary answer and its tensors by name."""
    size = int(told.headers[b"inference-header-content-length"])
    head, rest = json.loads(told.body[:size]), told.body[size:]
    found = {}
    for output in head["outputs"]:
        taken = output.get("parameters", {}).get("binary_data_size")
        if taken is not None:
            found[output["name"]], rest = rest[:taken], rest[taken:]
    assert rest == b""
    return head, found


def test_every_route_of_the_table_has_a_handler_and_no_handler_is_without(rest):
    from shoal.server.rest import InferenceApp

    mine = {(m, path) for m, path, _ in TABLE if path.split("/")[1] in ("v2", "ping", "invocations")}
    assert set(InferenceApp(rest.plane).handlers) == mine


def test_health_and_descriptions(rest):
    for path in ("/v2/health/live", "/v2/health/ready", "/ping"):
        assert rest.get(path).json == {"live": True, "ready": True}
    for path in ("/v2", "/v2/"):
        told = rest.get(path).json
        assert told["name"] == "shoal"
        assert "binary_tensor_data" in told["extensions"]
    assert rest.get("/v2/models/ridges/ready").json == {"name": "ridges", "ready": True}
    assert rest.get("/v2/models/ridges/versions/1/ready").status == 200
    told = rest.get("/v2/models/ridges").json
    assert told["inputs"] == [
        {"name": "device", "datatype": "BYTES", "shape": [-1]},
        {"name": "line", "datatype": "INT64", "shape": [-1]},
        {"name": "x", "datatype": "FP64", "shape": [-1]},
        {"name": "y", "datatype": "FP64", "shape": [-1]},
    ]
    assert told["versions"] == ["1"]
    assert rest.get("/v2/models/ridges/versions/1").json["name"] == "ridges"
    assert rest.ask("HEAD", "/v2").status == 200


def test_an_id_that_cannot_be_kept_is_refused_where_results_are_durable(tmp_path):
    make_home(tmp_path)
    with open_workspace(tmp_path) as workspace:
        workspace.set_serving("ridges", {"store": "durable"})
    with rest_world(tmp_path, ["ridges", "column"]) as rest:
        for odd in ("order 7", "a" * 129, "\xe9"):
            told = rest.post("/v2/models/ridges/infer", request(), **{"x-request-id": odd})
            assert told.status == 400
            assert "give 1 to 128 letters" in told.json["error"]
            plain = {"inputs": [tensor("x", "FP64", [1.0])]}
            assert rest.post("/v2/models/column/infer", plain, **{"x-request-id": odd}).status == 200
        for good in ("a" * 128, "A.7_:/+=-", ""):
            assert rest.post("/v2/models/ridges/infer", request(), **{"x-request-id": good}).status == 200
        assert rest.post("/v2/models/ridges/infer", request()).status == 200
        kept = [one.request_id for one in rest.workspace.predictions.listed()]
    assert len(kept) == 4
    assert {"a" * 128, "A.7_:/+=-"} < set(kept)


@pytest.mark.parametrize("path", ["/v2/models/ridges", "/v2/models/ridges/ready", "/v2/health/live", "/ping"])
def test_a_slash_too_many_is_pointed_at(rest, path):
    assert rest.get(path).status == 200
    told = rest.get(f"{path}/")
    assert (told.status, told.json["error"]) == (404, "there is no such route; leave out the slash at its end")
    assert "leave out the slash" not in rest.get("/v2/nothing/").json["error"]


def test_readiness_is_refused_with_its_reason(home):
    with rest_world(home, ["column"]) as rest:
        rest.runner.run(rest.plane.drain(1.0))
        for path in ("/v2/health/ready", "/ping", "/v2/models/column/ready"):
            told = rest.get(path)
            assert told.status == 503
            assert told.json["error"]
            assert told.json["ready"] is False
            assert int(told.headers[b"retry-after"]) >= 1
        assert rest.get("/v2/health/live").json == {"live": True, "ready": False}
        told = rest.post("/v2/models/column/infer", {"inputs": [tensor("x", "FP64", [1.0])]})
        assert (told.status, b"retry-after" in told.headers) == (503, True)


def test_a_model_that_is_not_ready_says_why(home):
    with rest_world(home, ["column@nope"]) as rest:
        told = rest.get("/v2/models/column/ready")
        assert (told.status, told.json["ready"]) == (503, False)
        assert "no alias 'nope', only champion" in told.json["error"]
        assert b"retry-after" in told.headers
        assert rest.post("/v2/repository/index", {}).json[0]["reason"] in told.json["error"]
        health = rest.get("/v2/health/ready")
        assert (health.status, "index" in health.json["error"], "column" in health.json["error"]) == (503, True, False)


@pytest.mark.parametrize("data", [ROWS.tolist(), ROWS.reshape(-1).tolist()])
def test_features_may_come_side_by_side(rest, data):
    keys = request()["inputs"][:2]
    matrix = {"name": "predict", "datatype": "FP64", "shape": [2, 2], "data": data}
    told = rest.post(INFER, {"inputs": [*keys, matrix]})
    np.testing.assert_allclose(told.output("prediction"), expected(), rtol=1e-9)
    own = rest.post("/v2/models/ridges:a:1/infer", {"inputs": [matrix]})
    np.testing.assert_allclose(own.output("prediction"), RIDGES["a", 1].predict(ROWS), rtol=1e-9)
    refused = rest.post(INFER, {"inputs": [*keys, {**matrix, "shape": [1, 4], "data": [0.0] * 4}]})
    assert refused.status == 400
    assert "has to be [rows, 2]: 'x', 'y', in that order" in refused.json["error"]


def test_answers_are_the_estimators(rest):
    told = rest.post(INFER, request(id="seven"))
    assert told.status == 200
    assert told.headers[b"content-type"] == b"application/json"
    np.testing.assert_allclose(told.output("prediction"), expected(), rtol=1e-9)
    assert told.output("outcome") == ["scored", "scored"]
    assert (told.json["model_name"], told.json["model_version"], told.json["id"]) == ("ridges", "1", "seven")
    assert "id" not in rest.post(INFER, request()).json
    assert rest.post("/v2/models/ridges/versions/1/infer", request()).output("prediction") == told.output("prediction")


def test_tasks_answer_in_their_own_words(rest):
    inputs = [tensor("x", "FP64", ROWS[:, 0].tolist()), tensor("y", "FP64", ROWS[:, 1].tolist())]
    told = rest.post("/v2/models/labels/infer", {"inputs": inputs})
    assert told.output("prediction") == CLASSIFIER.predict(ROWS).tolist()
    np.testing.assert_allclose(told.output("probability"), CLASSIFIER.predict_proba(ROWS).ravel(), rtol=1e-9)
    keys = [tensor("day", "BYTES", ["2026-01-02"] * 2), tensor("night", "BOOL", [True, True])]
    told = rest.post("/v2/models/alarms/infer", {"inputs": [*keys, *inputs]})
    np.testing.assert_allclose(told.output("score"), DETECTOR.decision_function(ROWS), rtol=1e-9)
    assert told.output("is_anomaly") == (DETECTOR.predict(ROWS) < 0).tolist()


def test_nested_data_and_all_numbers_are_taken(rest):
    asked = request()
    asked["inputs"][2] |= {"shape": [2, 1], "data": [[1.0], [3.0]]}
    asked["inputs"][3] |= {"datatype": "FP32", "data": [2, -4]}
    np.testing.assert_allclose(rest.post(INFER, asked).output("prediction"), expected(), rtol=1e-9)
    asked["inputs"][2] |= {"datatype": "INT8", "data": [1, 3], "shape": [2]}
    np.testing.assert_allclose(rest.post(INFER, asked).output("prediction"), expected(), rtol=1e-9)


def test_a_missing_number_is_null_or_nan_and_so_is_a_missing_answer(rest):
    body = json.dumps(request(rows=[[float("nan"), 1], [1, 2]], id='NaN of "NaN"')).encode()
    assert body.count(b"NaN") == 3
    told = rest.ask("POST", INFER, body, JSON)
    assert told.output("outcome") == ["invalid", "scored"]
    assert told.output("prediction")[0] is None
    assert told.json["id"] == 'NaN of "NaN"'
    other = rest.ask("POST", INFER, body.replace(b"[NaN", b"[null"), JSON)
    assert other.json == told.json


def test_outputs_can_be_chosen(rest):
    wanted = [{"name": "model_level"}, {"name": "prediction"}, {"name": "snapshot"}]
    told = rest.post(INFER, request(outputs=wanted, devices=("a", "zz")))
    assert [one["name"] for one in told.json["outputs"]] == ["model_level", "prediction", "snapshot"]
    assert told.output("model_level")[0] == "device+line"
    assert told.output("prediction")[1] is None
    told = rest.post(INFER, request(outputs=[{"name": "nothing"}]))
    assert told.status == 400
    assert "nothing" in told.json["error"]


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [("FP64", "<f8"), ("FP32", "<f4"), ("FP16", "<f2"), ("INT8", "i1"), ("INT16", "<i2"), ("INT32", "<i4"),
     ("INT64", "<i8"), ("UINT16", "<u2"), ("UINT32", "<u4"), ("UINT64", "<u8"), ("UINT8", "u1"), ("BOOL", "?")],
)  # fmt: skip
def test_binary_inputs_of_every_type(rest, datatype, dtype):
    xs = np.array([1, 0]).astype(dtype)
    asked = request(rows=[[1, 2], [0, 2]])
    asked["inputs"][2]["datatype"] = datatype
    contents = [
        text("a") + text("b"),
        np.array([1, 2]).astype("<i8").tobytes(),
        xs.tobytes(),
        np.array([2.0, 2.0]).tobytes(),
    ]
    told = rest.ask("POST", INFER, *binary(asked["inputs"], contents))
    assert told.status == 200, told.body
    np.testing.assert_allclose(told.output("prediction"), expected(rows=[[1, 2], [0, 2]]), rtol=1e-9)


def test_brain_floats_come_raw_only(rest):
    """They are the upper halves of singles; 1.5 and -2 are exact in them."""
    xs = (np.array([1.5, -2.0], dtype="<f4").view("<u4") >> 16).astype("<u2")
    asked = request(rows=[[1.5, 2], [-2, 2]])
    asked["inputs"][2]["datatype"] = "BF16"
    contents = [
        text("a") + text("b"),
        np.array([1, 2]).astype("<i8").tobytes(),
        xs.tobytes(),
        np.array([2.0, 2.0]).tobytes(),
    ]
    told = rest.ask("POST", INFER, *binary(asked["inputs"], contents))
    assert told.status == 200, told.body
    np.testing.assert_allclose(told.output("prediction"), expected(rows=[[1.5, 2], [-2, 2]]), rtol=1e-9)
    refused = rest.post(INFER, asked)
    assert refused.status == 400
    assert "BF16 has to be sent raw" in refused.json["error"]


def test_binary_and_plain_inputs_can_be_mixed(rest):
    asked = request()
    head = {**asked, "inputs": [*asked["inputs"][:3], {**asked["inputs"][3], "parameters": {"binary_data_size": 16}}]}
    del head["inputs"][3]["data"]
    raw = json.dumps(head).encode()
    body = raw + ROWS[:, 1].tobytes()
    told = rest.ask("POST", INFER, body, {"inference-header-content-length": str(len(raw))})
    np.testing.assert_allclose(told.output("prediction"), expected(), rtol=1e-9)


def test_binary_outputs_of_every_type(rest):
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in ("prediction", "outcome", "snapshot")]
    told = rest.post(INFER, request(outputs=[*wanted, {"name": "reason"}], devices=("a", "zz"), id="x"))
    assert told.headers[b"content-type"] == b"application/octet-stream"
    head, found = parts(told)
    assert head["id"] == "x"
    assert "data" not in head["outputs"][0]
    assert head["outputs"][3]["data"] == told_reason(rest)
    values = np.frombuffer(found["prediction"])
    assert values[0] == pytest.approx(expected()[0])
    assert np.isnan(values[1])
    assert found["outcome"] == text("scored") + text("no_model")
    assert np.frombuffer(found["snapshot"], dtype="<i8").tolist() == [1, 1]


def told_reason(rest):
    return rest.post(INFER, request(outputs=[{"name": "reason"}], devices=("a", "zz"))).output("reason")


def test_all_outputs_binary_but_those_that_say_otherwise(rest):
    parameters = {"binary_data_output": True}
    head, found = parts(rest.post(INFER, request(parameters=parameters)))
    assert list(found) == ["prediction", "outcome"]
    outputs = [{"name": "prediction", "parameters": {"binary_data": False}}, {"name": "outcome"}]
    head, found = parts(rest.post(INFER, request(parameters=parameters, outputs=outputs)))
    assert list(found) == ["outcome"]
    np.testing.assert_allclose(head["outputs"][0]["data"], expected(), rtol=1e-9)


def test_a_single_input_can_come_as_nothing_but_bytes(rest):
    xs = np.array([1.0, -2.5, 3.0])
    header = {"inference-header-content-length": "0", "content-type": "application/octet-stream"}
    _, found = parts(rest.ask("POST", "/v2/models/column/infer", xs.tobytes(), header))
    np.testing.assert_allclose(np.frombuffer(found["prediction"]), COLUMN.predict(xs[:, None]), rtol=1e-9)
    told = rest.ask("POST", "/v2/models/column/versions/1/infer", xs.tobytes()[:-1], header)
    assert (told.status, "bytes" in told.json["error"]) == (400, True)
    told = rest.ask("POST", INFER, xs.tobytes(), header)
    assert (told.status, "one input" in told.json["error"]) == (400, True)


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_packed_requests_and_answers(rest, coding, pack):
    count = 600
    rows = np.random.default_rng(0).normal(size=(count, 2))
    asked = json.dumps(request(devices=["a"] * count, lines=[1] * count, rows=rows)).encode()
    headers = {**JSON, "content-encoding": coding, "accept-encoding": f"br, {coding};q=0.5"}
    told = rest.ask("POST", INFER, pack(asked), headers)
    assert told.headers[b"content-encoding"] == coding.encode()
    unpacked = gzip.decompress(told.body) if coding == "gzip" else zlib.decompress(told.body)
    found = json.loads(unpacked)["outputs"][0]["data"]
    np.testing.assert_allclose(found, RIDGES["a", 1].predict(rows), rtol=1e-9)
    plain = rest.ask("POST", INFER, asked, {**JSON, "accept-encoding": f"{coding};q=0, br"})
    assert b"content-encoding" not in plain.headers
    assert plain.body == unpacked


def test_a_bomb_is_defused(rest):
    bomb = gzip.compress(b" " * (BODY_BYTES + 1))
    told = rest.ask("POST", INFER, bomb, {**JSON, "content-encoding": "gzip"})
    assert (told.status, len(bomb) < 2000) == (413, True)
    for body in (bomb[:-9], bomb[:30], b"nothing", gzip.compress(b"{}") + b"x"):
        told = rest.ask("POST", INFER, body, {**JSON, "content-encoding": "gzip"})
        assert told.status in (400, 413), told.body
    assert rest.ask("POST", INFER, b"{}", {**JSON, "content-encoding": "br"}).status == 415


def test_bodies_come_in_pieces_and_end_where_they_should(rest):
    body = json.dumps(request()).encode()
    told = rest.ask("POST", INFER, headers=JSON, pieces=[body[:10], b"", body[10:]])
    np.testing.assert_allclose(told.output("prediction"), expected(), rtol=1e-9)
    assert rest.ask("POST", INFER, headers=JSON, pieces=[b" " * BODY_BYTES, b" "]).status == 413
    assert rest.ask("POST", INFER, headers=JSON, pieces=[body[:10]], hangs_up=True).status == 400


@pytest.mark.parametrize("write", [lambda a: quote(a), lambda a: quote(a, safe=":"), lambda a: a])
def test_a_single_model_is_addressed_by_its_key(rest, write):
    address = f"ridges:{quote(ODD, safe='')}:3"
    assert "%2F" in address
    path = f"/v2/models/{write(address)}"
    told = rest.get(path).json
    assert [one["name"] for one in told["inputs"]] == ["x", "y"]
    asked = {"inputs": request()["inputs"][2:]}
    found = rest.post(f"{path}/infer", asked)
    np.testing.assert_allclose(found.output("prediction"), RIDGES[ODD, 3].predict(ROWS), rtol=1e-9)
    assert found.json["model_name"] == address


def test_a_model_that_there_is_not_is_not_found_without_rows_either(rest):
    none = {"inputs": [tensor("x", "FP64", [], [0]), tensor("y", "FP64", [], [0])]}
    told = rest.post("/v2/models/ridges:a:1/infer", none)
    assert (told.status, told.output("prediction")) == (200, [])
    for address in ("ridges:a:2", "ridges:*:*", "ridges:*:1"):
        assert rest.post(f"/v2/models/{address}/infer", none).status == 404


def test_a_fleet_of_one_model_is_asked_by_its_name(rest):
    told = rest.post("/v2/models/column:1/infer", {"inputs": [tensor("x", "FP64", [1.0])]})
    assert (told.status, told.json["error"]) == (404, "'column' has one model and no key: write column")


def test_an_integer_that_no_key_can_be_costs_its_row_only(rest):
    asked = request(outputs=[{"name": "prediction"}, {"name": "outcome"}])
    asked["inputs"][1] = tensor("line", "UINT64", [2**64 - 1, 2])
    told = rest.post(INFER, asked)
    assert told.output("outcome") == ["invalid", "scored"]
    np.testing.assert_allclose(told.output("prediction")[1], expected()[1], rtol=1e-9)


def test_an_older_version_can_be_asked(tmp_path):
    make_home(tmp_path / "home")
    with rest_world(tmp_path / "home", ["ridges"]) as rest:
        other = next(fleet for fleet in fleets() if fleet.name == "ridges")
        rest.workspace.register(other)
        path = "/v2/models/ridges/versions/2"
        assert rest.get(path).json["versions"] == ["2"]
        assert rest.get(f"{path}/ready").status == 200
        told = rest.post(f"{path}/infer", request())
        assert told.json["model_version"] == "2"
        for version in ("3", "x", "-1", "%32%20", "9" * 400):
            told = rest.get(f"/v2/models/ridges/versions/{version}")
            assert told.status in (400, 404)
            assert told.json["error"]


def test_a_fleet_that_was_unloaded_says_so_and_not_when_to_come_back(tmp_path):
    make_home(tmp_path / "home")
    with rest_world(tmp_path / "home", []) as rest:
        rest.ask("POST", "/v2/repository/models/column/unload")
        for path in ("/v2/models/column/infer", "/v2/models/column/versions/1/infer"):
            told = rest.post(path, {"inputs": [{"name": "id", "datatype": "BYTES", "shape": [1], "data": ["a"]}]})
            assert told.status == 503
            assert told.json["error"] == "the fleet 'column' is unloaded; `shoal fleets load column` loads it"
            assert b"retry-after" not in told.headers
        for path in ("/v2/models/column/ready", "/v2/models/column/versions/1/ready", "/v2/models/column"):
            told = rest.get(path)
            assert (told.status, "load" in told.json["error"], b"retry-after" in told.headers) == (503, True, False), (
                path
            )


def test_the_repository(tmp_path):
    make_home(tmp_path / "home")
    with rest_world(tmp_path / "home", []) as rest:
        assert rest.ask("POST", "/v2/repository/models/column/load").status == 200
        told = rest.ask("POST", "/v2/repository/index").json
        assert {"name": "column", "version": "1", "state": "READY", "reason": ""} in told
        before = rest.post("/v2/repository/index", {"ready": True}).json
        assert all(one["state"] == "READY" for one in before)
        for parameter in ("file:1/model.bin", "config", "anything"):
            told = rest.post("/v2/repository/models/column/load", {"parameters": {parameter: "e30="}})
            assert (told.status, parameter in told.json["error"]) == (400, True)
        told = rest.post("/v2/repository/models/column/unload", {"parameters": {"unload_dependents": False}})
        assert told.status == 200
        assert "column" not in [one["name"] for one in rest.post("/v2/repository/index", {"ready": True}).json]
        assert rest.post("/v2/repository/models/nothing/load", {}).status == 404


def test_statistics_count(home):
    with rest_world(home, ["ridges", "column"]) as rest:
        rest.post(INFER, request())
        started_ns = time.perf_counter_ns()
        rest.post(INFER, {"inputs": []})
        took_ns = time.perf_counter_ns() - started_ns
        for path in ("/v2/models/ridges/stats", "/v2/models/ridges/versions/1/stats"):
            (told,) = rest.get(path).json["model_stats"]
            assert (told["name"], told["version"], told["inference_count"], told["execution_count"]) == (
                "ridges", "1", 2, 1,
            )  # fmt: skip
            assert told["inference_stats"]["success"]["count"] == 1
            spent = told["inference_stats"]
            assert (spent["fail"]["count"], 0 < spent["fail"]["ns"] <= took_ns) == (1, True)
            assert spent["compute_infer"]["ns"] > 0
            assert [spent[part]["count"] for part in ("compute_input", "compute_output")] == [1, 1]
            assert spent["compute_input"]["ns"] > 0
            assert spent["compute_output"]["ns"] > 0
            parts = ("compute_input", "queue", "compute_infer", "compute_output")
            assert sum(spent[part]["ns"] for part in parts) <= spent["success"]["ns"]
        assert len(rest.get("/v2/models/stats").json["model_stats"]) == 2
        assert rest.get("/v2/models/nothing/stats").status == 404


def test_a_deadline_that_has_passed_is_an_answer_of_its_own(rest):
    told = rest.post(INFER, request(), **{"request-timeout": "0.0000001"})
    assert (told.status, "error" in told.json) == (504, True)
    told = rest.post(INFER, request(parameters={"timeout": 10**400}))
    assert told.status in (200, 400)
    assert rest.post(INFER, request(parameters={"timeout": 20 * 10**6, "custom": "x"})).status == 200
    assert rest.post(INFER, request(parameters={"timeout": 0})).status == 200  # Triton: none
    assert rest.post(INFER, request(parameters={"timeout": 1})).status == 504


@pytest.mark.parametrize("timeout", [-1, "abc", True, 1.5])
def test_a_timeout_that_is_no_time_is_refused(rest, timeout):
    told = rest.post(INFER, request(parameters={"timeout": timeout}))
    assert (told.status, "timeout" in told.json["error"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("PUT", "/v2/models/ridges", 405),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models//ready", 404),
        ("GET", "/v2/models/nothing", 404),
        ("GET", "/v2/models/%ff", 400),
        ("GET", "/v2/models/ridges:%ff:1", 404),
        ("GET", "/v2/models/ridges:a", 404),
        ("GET", "/v2/models/ridges:a:1:2", 404),
        ("GET", "/v2/models/ridges:zz:1", 404),
        ("POST", "/v2/models/ridges:zz:1/infer", 404),
        ("POST", "/v2/models/nothing/infer", 404),
    ],
)
def test_what_is_not_there_says_so(rest, method, path, status):
    body = json.dumps({"inputs": request()["inputs"][2:]}).encode() if method == "POST" else b""
    told = rest.ask(method, path, body, JSON if body else {})
    assert (told.status, list(told.json)) == (status, ["error"])


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/csv"])
def test_bodies_of_other_kinds_are_refused(rest, kind):
    told = rest.ask("POST", INFER, json.dumps(request()).encode(), {"content-type": kind})
    assert (told.status, list(told.json)) == (415, ["error"])
    told = rest.ask("POST", INFER, json.dumps(request()).encode(), {"content-type": "Application/JSON; charset=utf-8"})
    assert told.status == 200


def test_what_breaks_inside_stays_inside(rest, monkeypatch):
    def broken(*_args, **_more):
        raise RuntimeError("the password is 1234")

    monkeypatch.setattr(type(rest.plane), "infer", broken)
    told = rest.post(INFER, request(), **{"x-request-id": "findme"})
    assert told.status == 500
    assert b"1234" not in told.body
    assert b"Traceback" not in told.body
    assert "findme" in told.json["error"]


def test_what_json_and_datatypes_there_are_is_said(rest):
    strange = request()
    strange["inputs"][2]["datatype"] = "FP8"
    refused = rest.post(INFER, strange)
    assert refused.status == 400
    assert "FP8" in refused.json["error"]
    assert "FP16, BF16, FP32, FP64, BYTES" in refused.json["error"]
    for number in ("Infinity", "-Infinity"):
        body = json.dumps(request()).replace("1.0", number).encode()
        refused = rest.ask("POST", INFER, body, JSON)
        assert refused.status == 400
        assert "JSON has no Infinity" in refused.json["error"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is empty; send the request as JSON"),
        (b" \n", "the body is empty; send the request as JSON"),
        (json.dumps(request()).encode("utf-16"), "the request is UTF-16; send JSON as UTF-8"),
        (b"garbage", "the request is no JSON: JSON is malformed: invalid character (byte 0)"),
        (b'{"inputs": [}', "the request is no JSON: JSON is malformed: invalid character (byte 12)"),
        (b'{"other": [1, nan]}', "a missing number is null"),
        (b'{"other": [None]}', "a missing number is null"),
        (b'{"other": [1,,2]}', "a missing number is null"),
        (b'{"other": [1', "the request is no JSON: Input data was truncated"),
    ],
)
def test_what_is_no_json_is_told_so_with_the_hint_that_helps(rest, body, said):
    refused = rest.ask("POST", INFER, body, JSON)
    assert refused.status == 400
    assert said in refused.json["error"]
    assert ("missing number" in refused.json["error"]) == ("missing number" in said)


def test_a_mark_of_utf_8_is_no_harm(rest):
    body = json.dumps(request()).encode("utf-8-sig").replace(b"1.0", b"NaN", 1)
    assert rest.ask("POST", INFER, body, JSON).status == 200
