"""Predictions that nobody waits for, asked from Python: of servers, and of the workspace itself."""

import asyncio
import contextlib
import datetime as dt
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import polars as pl
import pytest
from serve_process import command, make_home, serving, wait_until
from test_connect import rows

import shoal
from shoal.errors import Conflict, DeadlineExceeded, InvalidInput, NotFound, ShoalError, TooLarge
from shoal.jobs.states import PredictionState
from shoal.ledger import PredictionKind
from shoal.security.permissions import Role
from shoal.serving.deferred import Wishes, new_prediction
from shoal.serving.messages import InferenceRequest
from shoal.serving.payloads import decode_response
from tests.unit.serving.fleets import tensor

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictions")
    home = folder / "home"
    make_home(home)
    with shoal.open(home) as workspace:
        workspace.set_sink("lake", {"kind": "parquet_sink", "folder": str(folder / "lake")})
        keys = {role: workspace.create_key(role, role).text for role in Role}
    with serving(home, folder / "server", "--workers", "2", "--no-grpc") as server:
        yield home, server, keys


@pytest.fixture
def client(world):
    _, server, keys = world
    with shoal.connect(server.url, api_key=keys[Role.OPERATOR]) as made:
        yield made


@pytest.fixture
def workspace(world):
    with shoal.open(world[0], actor="ann") as opened:
        yield opened


@pytest.fixture(params=["client", "workspace"])
def place(request):
    """Where it is asked: both have the same words."""
    return request.getfixturevalue(request.param)


def answered(client, frame, **wishes):
    """What is predicted at once, without the key columns; a result does not say which levels there are."""
    found = client.fleet("pumps").predict(frame, **wishes).drop("device")
    return found.with_columns(pl.col(name).cast(pl.String) for name in found.columns if name == "model_level")


def test_what_is_submitted_is_answered_as_at_once(place, client):
    frame = rows(100)
    wishes = {"outcome": True, "model_level": True, "snapshot": True}
    made = place.submit("pumps", frame, **wishes)
    assert place.result(made, timeout_s=PATIENCE_S).equals(answered(client, frame, **wishes))
    usual = place.result(place.submit("pumps:2", frame), timeout_s=PATIENCE_S)
    assert usual.equals(client.fleet("pumps:2").predict(frame).drop("device"))
    other = place.submit("pumps@champion", frame)
    assert place.result(other, timeout_s=PATIENCE_S).equals(answered(client, frame))


def test_a_row_without_an_answer_says_why(world, place):
    frame = {"device": ["d1", "d1"], "a": [1.0, None], "b": [1.0, 1.0]}
    made = place.submit("pumps", frame, outcome=True, reason=True)
    told = place.result(made, timeout_s=PATIENCE_S)
    assert told.columns == ["prediction", "outcome", "reason"]
    assert told.select("outcome", "reason").rows() == [("scored", None), ("invalid", "missing value in 'a'")]
    home, _, _ = world
    row = '{"device": "d1", "a": null, "b": 1}'
    made = command(home, "predictions", "submit", "pumps", "--row", row, "--model-level", "--snapshot").stdout.strip()
    shown = command(home, "predictions", "show", made, "--timeout", "30")
    assert "missing value in 'a'" in shown.stdout
    assert "invalid" in shown.stdout
    outputs = json.loads(command(home, "predictions", "show", made, "--json").stdout)["response"]["outputs"]
    assert {one["name"]: one["data"] for one in outputs} == {
        "prediction": [None], "outcome": ["invalid"], "reason": ["missing value in 'a'"], "model_level": ["device"],
        "snapshot": [1],
    }  # fmt: skip


def test_records_are_the_same_from_afar_but_for_what_was_asked(place, client, workspace):
    made = place.submit("pumps", rows(2), ordering_key="k")
    there = client.predictions.wait(made, timeout_s=PATIENCE_S)
    here = workspace.predictions.one(made)
    assert there.is_settled
    for field in there.__struct_fields__:
        if field not in ("request", "answer"):
            assert getattr(there, field) == getattr(here, field), field
    assert there.request is None
    assert decode_response(there.answer).model_version == decode_response(here.answer).model_version == "1"
    listed = client.predictions.listed(fleet="pumps", limit=5)
    assert [one.id for one in listed] == [one.id for one in workspace.predictions.listed(fleet="pumps", limit=5)]
    assert listed[0].answer is None


def test_lists_are_filtered(client, workspace):
    workspace.result(workspace.submit("pumps", rows(1)), timeout_s=PATIENCE_S)
    before = dt.datetime.now(dt.UTC)
    mine = client.submit("pumps", rows(1))
    client.result(mine, timeout_s=PATIENCE_S)
    listed = client.predictions.listed
    assert {one.principal for one in listed(principal="ann")} == {"ann"}
    assert mine in [one.id for one in listed(since=before, state=PredictionState.DONE)]
    assert mine not in [one.id for one in listed(until=before)]
    assert listed(kind=PredictionKind.STORED) == []
    with pytest.raises(InvalidInput, match="time zone"):
        listed(since=dt.datetime(2026, 1, 1))


def test_one_sees_ones_own_only(world, client):
    _, server, keys = world
    others = client.submit("pumps", rows(1))
    with shoal.connect(server.url, api_key=keys[Role.PREDICTOR]) as caller:
        mine = caller.submit("pumps", rows(1))
        assert caller.predictions.wait(mine, timeout_s=PATIENCE_S).principal == Role.PREDICTOR
        with pytest.raises(NotFound):
            caller.predictions.one(others)
        assert {one.principal for one in caller.predictions.listed()} == {Role.PREDICTOR}
        assert caller.predictions.listed(principal="operator") == []
        with pytest.raises(shoal.errors.Forbidden):
            caller.predictions.replay_failed()


def test_the_same_key_is_the_same_prediction(place):
    frame = rows(1)
    key = f"once {type(place).__name__}"
    assert place.submit("pumps", frame, idempotency_key=key) == place.submit("pumps", frame, idempotency_key=key)
    with pytest.raises(Conflict):
        place.submit("pumps", rows(2), idempotency_key=key)
    assert place.submit("pumps", frame) != place.submit("pumps", frame)


def test_a_sink_gets_the_result(place, world):
    made = place.submit("pumps", rows(3), sink="lake")
    assert place.predictions.wait(made, timeout_s=PATIENCE_S).state is PredictionState.DONE
    lake = world[0].parent / "lake"
    wait_until(lambda: made in scanned(lake)["prediction_id"].to_list())
    with pytest.raises(NotFound):
        place.submit("pumps", rows(1), sink="nowhere")


def scanned(lake):
    return pl.read_parquet(lake / "**" / "*.parquet")


def test_what_cannot_be_used_is_refused_at_once(place):
    for wishes in ({"ordering_key": "é"}, {"timeout_s": 0}, {"timeout_s": float("nan")}, {"idempotency_key": ""}):
        with pytest.raises(InvalidInput):
            place.submit("pumps", rows(1), **wishes)
    with pytest.raises(InvalidInput, match="lack the key column"):
        place.submit("pumps", {"a": [1.0], "b": [1.0]})
    with pytest.raises(NotFound):
        place.submit("nobody", rows(1))
    with pytest.raises(TooLarge):
        place.submit("pumps", rows(60_000))


def accepted_before_it_took_another_input(world, frame):
    """What is kept of a request that fitted once, e.g. before a promotion; its id."""
    inputs = tuple([tensor(name, values) for name, values in frame.items()])
    asked = InferenceRequest(model="pumps", inputs=inputs)
    new = new_prediction(asked, Wishes(), principal="ann", request_id="r", attempts=5)
    with shoal.open(world[0]) as workspace:
        [made] = workspace.predictions.accept([new])
    return made


def test_failures_say_why_and_are_replayed(world, place, client):
    missing = {"device": ["d1"], "a": [1.0]}
    with pytest.raises(InvalidInput, match="lacks the input"):
        place.submit("pumps", missing)
    failed = accepted_before_it_took_another_input(world, missing)
    record = place.predictions.wait(failed, timeout_s=PATIENCE_S)
    assert record.state is PredictionState.FAILED
    with pytest.raises(ShoalError, match="lacks the input"):
        place.result(failed)
    assert place.predictions.replay(failed).state is PredictionState.WAITING
    assert place.predictions.wait(failed, timeout_s=PATIENCE_S).attempts == 2
    with pytest.raises(NotFound, match="no fleet 'nobody'"):
        place.predictions.replay_failed(fleet="nobody")
    assert place.predictions.replay_failed(fleet="pumps") >= 1
    assert place.predictions.wait(failed, timeout_s=PATIENCE_S).state is PredictionState.FAILED
    done = client.submit("pumps", rows(1))
    client.result(done, timeout_s=PATIENCE_S)
    with pytest.raises(Conflict):
        place.predictions.replay(done)
    with pytest.raises(NotFound):
        place.predictions.one("17-0000000000000000")


def test_waiting_ends_with_the_time(tmp_path):
    make_home(tmp_path / "home")
    with shoal.open(tmp_path / "home") as workspace:
        made = workspace.submit("pumps", rows(1), timeout_s=0.2)
        assert workspace.predictions.wait(made, timeout_s=0.05).state is PredictionState.WAITING
        with pytest.raises(DeadlineExceeded, match="waiting yet"):
            workspace.result(made)
        running = serving(tmp_path / "home", tmp_path / "server", "--no-grpc")
        with running as server, shoal.connect(server.url) as client:
            with pytest.raises(DeadlineExceeded, match="not done in time"):
                client.result(made, timeout_s=PATIENCE_S)
            assert client.predictions.one(made).state is PredictionState.EXPIRED


def test_an_event_loop_submits_and_waits_too(world, client):
    _, server, keys = world
    frame = rows(4)

    async def ask():
        async with shoal.connect_async(server.url, api_key=keys[Role.OPERATOR]) as there:
            fleet = await there.fleet("pumps")
            ids = await asyncio.gather(*[fleet.submit(frame) for _ in range(20)], there.submit("pumps", frame))
            single = await (await fleet.model("d1")).submit(frame.drop("device"))
            answers = await asyncio.gather(*[there.result(one, timeout_s=PATIENCE_S) for one in [*ids, single]])
            listed = await there.predictions.listed(limit=30)
            return ids, answers, {one.id for one in listed}

    ids, answers, listed = asyncio.run(ask())
    assert len(set(ids)) == 21
    assert set(ids) <= listed
    expected = answered(client, frame)
    assert all(answer.equals(expected) for answer in answers[:-1])
    assert answers[-1].equals(client.fleet("pumps")["d1"].predict(frame.drop("device")))


def test_a_submission_whose_answer_was_lost_is_taken_once(world):
    """The connection breaks after the server has accepted: the client asks again, with the key that it made."""
    _, server, keys = world
    with loses_the_first_answer(server.url) as (url, seen), shoal.connect(url, api_key=keys[Role.OPERATOR]) as client:
        fleet = client.fleet("pumps")
        routes = fleet._transport._routes
        routes._known.clear()
        routes.remembered_s = math.inf
        routes.learn("pumps", [])  # only through the wire that breaks
        seen["lose"] = True
        made = fleet.submit(rows(1))
        assert seen["lost"] == 1
        assert seen["accepted"] == [made, made]


@contextlib.contextmanager
def loses_the_first_answer(url):
    """A wire to a server that breaks once, after the server has accepted a request."""
    seen = {"lose": False, "lost": 0, "accepted": []}

    class Wire(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
            told = httpx.request(self.command, url + self.path, content=body, headers=kept, timeout=60, trust_env=False)
            if self.path.endswith("/async") and told.status_code == 202:
                seen["accepted"].append(told.json()["id"])
                if seen["lose"]:
                    seen["lose"], seen["lost"], self.close_connection = False, seen["lost"] + 1, True
                    return
            self.send_response(told.status_code)
            self.send_header("content-type", told.headers["content-type"])
            self.send_header("content-length", str(len(told.content)))
            self.end_headers()
            self.wfile.write(told.content)

        do_GET = do_POST = forward

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Wire) as wire:
        thread = threading.Thread(target=wire.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{wire.server_port}", seen
        wire.shutdown()
        thread.join()


def test_the_command_line_submits_and_waits(world):
    home = world[0]
    told = command(home, "predictions", "submit", "pumps", "device=d1", "a=1", "b=2", "--ordering-key", "k", "--json")
    made = json.loads(told.stdout)["id"]
    shown = command(home, "predictions", "show", made, "--timeout", "30", "--json")
    outputs = json.loads(shown.stdout)["response"]["outputs"]
    assert outputs[0]["data"] == pytest.approx([4.0])
