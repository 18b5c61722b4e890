"""MLflow's clients are answered as MLflow does, whatever form they give their table."""

import json

import numpy as np
import polars as pl
import pytest
from rest_world import CLASSIFIER, COLUMN, DETECTOR, ROWS, expected, make_home, request, rest_world
from sklearn.linear_model import Ridge

import shoal
from shoal import Fleet
from shoal.errors import InvalidInput

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
        {"inputs": {**BY_COLUMN, "line": ["1", "2"], "x": ["1.0", "3"]}},
        {"inputs": {name: [[value] for value in column] for name, column in BY_COLUMN.items()} | {"other": [[1, 2]]}},
        {"dataframe_split": {"columns": [0, 1, 2, 3], "data": TABLE}},
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
    for bad in (b"", b"x\n1,2\n", b"\xff\xfe", b'device\n"a', b"x,x\n1,2\n"):
        told = rest.ask("POST", "/invocations?fleet=ridges", bad, CSV)
        assert (told.status, list(told.json)) == (400, ["error"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", 10**400), ("x", -(10**400)), ("x", "abc"), ("x", "NA"), ("x", ""),
        ("line", "one"), ("line", 1.5), ("line", "1.5"), ("line", 2**63),
        ("line", 2**64 - 1), ("line", -(2**70)), ("line", 1e300), ("line", True), ("device", "nobody"), ("device", 7),
        ("x", None), ("line", None), ("device", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["dataframe_records", "dataframe_split", "instances", "inputs"])
def test_a_value_that_does_not_fit_costs_its_row_only(rest, form, name, value):
    odd = {**RECORDS[0], "x": 0.1, name: value}
    records = [{**RECORDS[0], "x": 0.1}, odd, RECORDS[1]]
    rows = [list(record.values()) for record in records]
    forms = {
        "dataframe_records": records,
        "dataframe_split": {"columns": COLUMNS, "data": rows},
        "instances": rows,
        "inputs": {name: [record[name] for record in records] for name in COLUMNS},
    }
    told = rest.post("/invocations?fleet=ridges", {form: forms[form]})
    assert told.status == 200, told.body
    wanted = expected(("a", "b"), (1, 2), [[0.1, 2.0], [3.0, -4.0]])
    assert told.json["predictions"][1] is None
    np.testing.assert_allclose(told.json["predictions"][::2], wanted, rtol=1e-9)


def test_a_number_is_the_same_whatever_stands_beside_it(rest):
    numbers = [0.1, 1 / 3, 1e22, -5e-324, 1.7976931348623157e308, 2**53 + 1, -0.0, 7, 2**62 + 1]
    alone = rest.post("/invocations?fleet=column", {"instances": numbers}).json["predictions"]
    beside = rest.post("/invocations?fleet=column", {"instances": [*numbers, "abc"]}).json["predictions"]
    texts = rest.post("/invocations?fleet=column", {"instances": list(map(repr, numbers))}).json["predictions"]
    assert [*alone, None] == beside
    assert alone == texts
    ones, flags, mixed = (
        rest.post("/invocations?fleet=column", {"instances": rows}).json["predictions"]
        for rows in ([1.0, 0.0, 0.5], [True, False], [True, False, 0.5, "x"])
    )
    assert ones[:2] == flags
    assert [*ones, None] == mixed


CELLS = {
    "numbers": ["1", "2.5", "-3e2", "", "inf", "1e400", "nan", "NaN"],
    "a text": ["1", "abc", "2.5", "", "NA", " 1", "1 ", "+1", ".5", "0x1", "1_0", "true", "inf", "nan"],
    "flags": ["true", "false", ""],
    "capital flags": ["True", "False", ""],
    "nothing": ["", ""],
    "whole": ["1", "2", "", "3"],
    "whole as numbers": ["1.0", "2.0", "", "2.5", "nan", "1e30"],
    "too large": ["1", "9223372036854775808", "18446744073709551615", "2"],
    "mixed": ["1", "1.0", "2e0", "true", "True", "abc", "nan", "", "2026-01-02"],
    "only a flag": ["true"],
    "only a date": ["2026-01-02"],
}


@pytest.mark.parametrize("name", ["line", "x", "device"])
@pytest.mark.parametrize("cells", CELLS)
def test_csv_is_read_as_a_file_that_is_scored(rest, tmp_path, name, cells):
    columns = {"device": "a", "line": "1", "x": "0.5", "y": "2"}
    rows = [{**columns, name: cell} for cell in CELLS[cells]]
    body = "\n".join([",".join(columns), *[",".join(row.values()) for row in rows]]).encode()
    told = rest.ask("POST", "/invocations?fleet=ridges", body, CSV)
    (tmp_path / "rows.csv").write_bytes(body)
    job = {"fleet": "ridges", "input": str(tmp_path / "rows.csv"), "output": str(tmp_path / "out")}
    try:
        rest.workspace.score(job)
    except InvalidInput:
        assert (told.status, list(told.json)) == (400, ["error"])
        return
    scored = pl.concat([pl.read_parquet(part) for part in sorted((tmp_path / "out").glob("part-*.parquet"))])
    assert told.status == 200, told.body
    assert told.json["predictions"] == scored["prediction"].to_list()


@pytest.mark.parametrize("name", ["line", "x", "device"])
def test_a_row_of_csv_is_answered_as_if_it_were_alone(rest, name):
    columns = {"device": "a", "line": "1", "x": "0.5", "y": "2"}
    rows = [",".join({**columns, name: cell}.values()) for cells in CELLS.values() for cell in cells]

    def answers(lines):
        body = "\n".join([",".join(columns), *lines]).encode()
        told = rest.ask("POST", "/invocations?fleet=ridges", body, CSV)
        assert told.status == 200, told.body
        return told.json["predictions"]

    assert answers(rows) == [answers([row])[0] for row in rows]


@pytest.mark.parametrize("beside", ["1.5", "1.0", "1e3", "NaN", "inf", str(10**20), str(2**63), "", "abc", "true"])
def test_an_integer_key_is_not_rounded_for_its_neighbour(tmp_path, beside):
    models = {(2**53 + i,): Ridge().fit([[0.0], [1.0]], [i, i]) for i in (0, 1)}
    large = Fleet.from_estimators(keys=["n"], models=models, features=["x"], task="regression", name="large")
    with shoal.open(tmp_path / "home") as workspace:
        workspace.promote("large", workspace.register(large).version)
    with rest_world(tmp_path / "home", ["large"]) as rest:
        told = rest.ask("POST", "/invocations", f"n,x\n{2**53 + 1},1\n{beside},1\n".encode(), CSV)
        assert told.json == {"predictions": [1.0, None]}
        told = rest.post("/invocations", {"inputs": {"n": [2**53 + 1, 2.0**53], "x": [1, 1]}})
        assert told.json == {"predictions": [1.0, None]}


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
        {"inputs": {**BY_COLUMN, "line": [True, False]}},
        {"inputs": {**BY_COLUMN, "device": [1, 2]}},
        {"inputs": {**BY_COLUMN, "x": [[1], 2]}},
        {"inputs": {**BY_COLUMN, "x": [[1, 2], [3, 4]]}},
        {"dataframe_split": {"columns": [0, 1, 2], "data": [row[:3] for row in TABLE]}},
        {"dataframe_split": {"columns": [1, 2, 3, 4], "data": TABLE}},
        {"dataframe_split": {"columns": ["device", "line", "x", 3], "data": TABLE}},
    ],
)
def test_what_is_no_table_is_refused(rest, asked):
    told = rest.post("/invocations?fleet=ridges", asked)
    assert (told.status, list(told.json)) == (400, ["error"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"inputs": {**BY_COLUMN, "device": [1, 2]}},
            "column 'device' holds numbers, and has to hold texts; write them",
        ),
        ({"inputs": {**BY_COLUMN, "line": [True, False]}}, "column 'line' holds true or false, and has to hold whole"),
        ({"inputs": {"device": ["a"], "line": [1, 2]}}, "column 'device' has 1 value(s) and 'line' has 2; give each"),
        ({"inputs": {"other": [1]}}, "the request has none of the columns; they are: device, line, x, y"),
    ],
)
def test_what_is_wrong_is_said_of_columns(rest, asked, said):
    assert rest.post("/invocations?fleet=ridges", asked).json["error"].startswith(said)


@pytest.mark.parametrize("table", [b"device;line;x;y\na;1;1;2\n", b"a,1,1.0,2.0\n"])
def test_csv_without_the_names_of_the_columns_is_refused(rest, table):
    told = rest.ask("POST", "/invocations?fleet=ridges", table, CSV)
    said = "the first line names none of the columns; put them there, with commas between: device, line, x, y"
    assert (told.status, told.json["error"]) == (400, said)


def test_what_the_address_says_is_not_said_by_rows_as_well(rest):
    """As over the protocol: the key columns are refused, whether they say the same or not."""
    path = "/invocations?fleet=ridges:a:1"
    protocol = rest.post("/v2/models/ridges:a:1/infer", request())
    assert protocol.status == 400
    for asked in (
        {"dataframe_records": RECORDS},
        {"dataframe_split": {"columns": COLUMNS, "data": TABLE}},
        {"inputs": BY_COLUMN},
        {"instances": [{"x": 1.0, "y": 2.0, "device": "a"}]},
    ):
        told = rest.post(path, asked)
        assert told.status == 400
        assert told.json["error"] == protocol.json["error"]
    assert rest.ask("POST", path, b"line,x,y\n1,1,2\n", CSV).status == 400
    assert rest.ask("POST", path, b"x,y,other\n1,2,3\n", CSV).json["predictions"] == [pytest.approx(expected()[0])]


def test_two_names_are_one_too_many(rest):
    asked = {"instances": [1.0]}
    same = rest.post("/invocations?fleet=column", asked, **{"x-shoal-fleet": "column"})
    assert same.status == 200
    for query, header in (("fleet=ridges", "column"), ("fleet=column", "ridges"), ("fleet=column&fleet=ridges", "")):
        told = rest.post(f"/invocations?{query}", asked, **({"x-shoal-fleet": header} if header else {}))
        assert told.status == 400
        assert "'column'" in told.json["error"]
        assert "'ridges'" in told.json["error"]
        assert ("header" in told.json["error"]) == bool(header)
    told = rest.post("/invocations?fleet=column:1", asked)
    assert (told.status, told.json["error"]) == (404, "'column' has one model and no key: write column")
    assert rest.post("/invocations?" + "&".join(["x=1"] * 200) + "&fleet=column", asked).status == 200


def test_other_kinds_of_body_are_refused(rest):
    told = rest.ask("POST", "/invocations", json.dumps({"instances": [1]}).encode(), {"content-type": "text/plain"})
    assert told.status == 415
