"""MLflow's clients are answered as MLflow does, whatever form they give their table."""

import json

import numpy as np
import pytest
from rest_world import CLASSIFIER, COLUMN, DETECTOR, ROWS, expected, make_home, rest_world

CSV = {"content-type": "text/csv"}
COLUMNS = ["device", "line", "x", "y"]
TABLE = [["a", 1, 1.0, 2.0], ["b", 2, 3.0, -4.0]]
RECORDS = [dict(zip(COLUMNS, row, strict=True)) for row in TABLE]
BY_COLUMN = {name: [row[n] for row in TABLE] for n, name in enumerate(COLUMNS)}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("invocations") / "home"
    make_home(folder)
    return folder


@pytest.fixture(scope="module")
def rest(home):
    with rest_world(home, ["ridges", "labels", "column", "alarms"]) as world:
        yield world


@pytest.mark.parametrize(
    "asked",
    [
        {"dataframe_split": {"columns": COLUMNS, "data": TABLE, "index": [5, 6]}},
        {"dataframe_split": {"columns": [*COLUMNS[::-1], "other"], "data": [[*row[::-1], None] for row in TABLE]}},
        {"dataframe_records": RECORDS},
        {"dataframe_records": [{**record, "other": "x"} for record in RECORDS], "params": {"anything": [1]}},
        {"instances": RECORDS},
        {"instances": TABLE},
        {"inputs": BY_COLUMN},
        {"inputs": TABLE},
        {"inputs": {**BY_COLUMN, "line": [1.0, 2.0]}},
    ],
)
def test_every_form_answers_as_the_estimators_do(rest, asked):
    told = rest.post("/invocations?fleet=ridges", asked)
    assert told.status == 200, told.body
    assert list(told.json) == ["predictions"]
    np.testing.assert_allclose(told.json["predictions"], expected(), rtol=1e-9)


def test_an_answer_from_the_cache_says_how_old_it_is(tmp_path):
    make_home(tmp_path / "home")
    with rest_world(tmp_path / "home", ["column"]) as rest:
        rest.workspace.set_serving("column", {"cache": {"ttl_s": 600}})
        rest.runner.run(rest.plane.catch_up())
        asked = {"instances": [[1.5]]}
        fresh, old = rest.post("/invocations", asked), rest.post("/invocations", asked)
        assert (fresh.json, b"age" in fresh.headers, old.headers[b"age"]) == (old.json, False, b"0")
        tensors = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.5]}]}
        assert 0 <= rest.post("/v2/models/column/infer", tensors).json["parameters"]["cache_age_s"] < 60


def test_csv_is_a_table_too(rest):
    body = b'device,other,line,x,y\r\na,,1,1.0,2\r\n"b","x,""y",2,3,-4.0\r\n\r\nb,,2,,1\r\n'
    told = rest.ask("POST", "/invocations?fleet=ridges", body, CSV)
    np.testing.assert_allclose(told.json["predictions"][:2], expected(), rtol=1e-9)
    assert told.json["predictions"][2] is None
    for bad in (b"", b"x\n1,2\n", b"device,line,x,y\na,one,1,2\n", b"\xff\xfe", b'device\n"a', b"x,x\n1,2\n"):
        told = rest.ask("POST", "/invocations?fleet=ridges", bad, CSV)
        assert (told.status, list(told.json)) == (400, ["error"])


def test_scalars_and_single_rows(rest):
    told = rest.post("/invocations", {"instances": [1.0, 2.0]}, **{"x-shoal-fleet": "column"})
    np.testing.assert_allclose(told.json["predictions"], COLUMN.predict([[1.0], [2.0]]), rtol=1e-9)
    told = rest.post("/invocations", {"inputs": {"x": 1.0}}, **{"x-shoal-fleet": "column"})
    np.testing.assert_allclose(told.json["predictions"], COLUMN.predict([[1.0]]), rtol=1e-9)
    for nothing in ({"instances": []}, {"dataframe_records": []}, {"dataframe_split": {"columns": ["x"], "data": []}}):
        assert rest.post("/invocations?fleet=column", nothing).json == {"predictions": []}


def test_tasks_answer_labels_and_scores(rest):
    rows = ROWS.tolist()
    told = rest.post("/invocations?fleet=labels", {"instances": rows})
    assert told.json["predictions"] == CLASSIFIER.predict(ROWS).tolist()
    told = rest.post("/invocations?fleet=alarms", {"instances": [["2026-01-02", True, *row] for row in rows]})
    np.testing.assert_allclose([one["score"] for one in told.json["predictions"]], DETECTOR.decision_function(ROWS))
    assert [one["is_anomaly"] for one in told.json["predictions"]] == (DETECTOR.predict(ROWS) < 0).tolist()


def test_the_only_fleet_need_not_be_named(home, rest):
    with rest_world(home, ["column"]) as alone:
        assert alone.post("/invocations", {"instances": [1.0]}).status == 200
    told = rest.post("/invocations", {"instances": [1.0]})
    assert told.status == 400
    assert "X-Shoal-Fleet" in told.json["error"]
    assert "column" in told.json["error"]
    assert rest.post("/invocations?fleet=nothing", {"instances": [1.0]}).status == 404
    assert rest.post("/invocations?fleet=ridges:a:1", {"instances": [[1.0, 2.0]]}).json["predictions"] == [
        pytest.approx(expected()[0])
    ]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        [],
        None,
        {"instances": [[1, 2], 3]},
        {"instances": [[1.0, 2.0]]},
        {"instances": [1.0]},
        {"instances": RECORDS, "inputs": RECORDS},
        {"instances": [{"x": {"y": 1}}]},
        {"instances": [{"device": "a"}]},
        {"inputs": {"device": ["a"], "line": [1, 2], "x": [1], "y": [1]}},
        {"dataframe_split": {"columns": ["x"], "data": [[1, 2]]}},
        {"dataframe_split": {"columns": ["x", "x"], "data": [[1, 2]]}},
        {"dataframe_split": {"data": [[1, 2]]}},
        {"inputs": {**BY_COLUMN, "line": [1.5, 2]}},
        {"inputs": {**BY_COLUMN, "line": ["1", "2"]}},
        {"inputs": {**BY_COLUMN, "x": [True, False]}},
        {"inputs": {**BY_COLUMN, "device": [1, 2]}},
    ],
)
def test_what_is_no_table_is_refused(rest, asked):
    told = rest.post("/invocations?fleet=ridges", asked)
    assert (told.status, list(told.json)) == (400, ["error"])


def test_other_kinds_of_body_are_refused(rest):
    told = rest.ask("POST", "/invocations", json.dumps({"instances": [1]}).encode(), {"content-type": "text/plain"})
    assert told.status == 415
