"""``shoal.connect``: the answers of a workspace, whichever server gives them."""

import asyncio
import json
import socket
import time

import msgspec
import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import Ridge

import shoal
from shoal.errors import Forbidden, InvalidInput, NotFound, StorageError, Unauthenticated
from shoal.security.permissions import Role
from tests.system.serve_process import command, make_home, post, serving, wait_until

ROWS = 12_345  # more than go into one request


@pytest.fixture
def home(tmp_path):
    make_home(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A home and a server over it that no test changes."""
    folder = tmp_path_factory.mktemp("connect")
    make_home(folder / "home")
    with shoal.open(folder / "home") as workspace:
        workspace.registry.describe("pumps", category="water", tags=["wet"], actor="test")
    with serving(folder / "home", folder / "server") as server:
        yield folder / "home", server


def rows(count):
    generator = np.random.default_rng(4)
    devices = [f"d{number}" for number in generator.integers(0, 6, count)]
    return pl.DataFrame({"device": devices, "a": generator.normal(size=count), "b": generator.normal(size=count)})


def require_same(found, expected):
    assert found.schema == expected.schema
    assert found.equals(expected)


def test_a_remote_fleet_answers_as_the_fleet_does(world):
    home, server = world
    frame = rows(ROWS)
    wishes = {"outcome": True, "model_level": True, "snapshot": True}
    with shoal.open(home) as workspace:
        fleet = workspace.fleet("pumps")
        expected = fleet.predict(frame, **wishes)
        single = fleet[("d2",)].predict(frame.drop("device"), **wishes)
        assert fleet["d2"].predict(frame.drop("device")).columns == ["prediction"]
        second = workspace.fleet("pumps:2").predict(frame)
    with shoal.connect(server.url) as client:
        remote = client.fleet("pumps")
        assert (remote.keys, remote.features, remote.task, remote.version) == (["device"], ["a", "b"], "regression", 1)
        require_same(remote.predict(frame, **wishes), expected)
        require_same(remote["d2"].predict(frame.drop("device"), **wishes), single)
        own = frame.filter(pl.col("device") == "d2")
        require_same(remote["d2"].predict(own), expected.filter(pl.col("device") == "d2").select("prediction"))
        assert client.fleet("pumps:2").predict(frame).equals(second)
        assert client.fleet("pumps@champion").predict(frame).equals(remote.predict(frame))
        require_same(remote.predict(frame.head(0), **wishes), expected.head(0))


@pytest.mark.parametrize("devices", [["d2", "d3"], [None, "d2"], ["d2", "nobody"]])
def test_a_single_model_refuses_rows_of_another_segment(world, devices):
    home, server = world
    frame = {"device": devices, "a": [0.1, 0.2], "b": [0.3, 0.4]}
    words = r"row [01]: key column 'device' is .*, and this is the model of 'd2'; leave the column out"
    with shoal.open(home) as workspace, shoal.connect(server.url) as client:
        for fleet in (workspace.fleet("pumps"), client.fleet("pumps")):
            with pytest.raises(InvalidInput, match=words):
                fleet["d2"].predict(frame)
        with pytest.raises(InvalidInput, match=words):
            client.fleet("pumps")["d2"].submit(frame)


def test_what_is_no_fleet_has_no_difference(world):
    home, server = world
    with shoal.open(home) as workspace, shoal.connect(server.url) as client:
        for place in (workspace, client):
            with pytest.raises(InvalidInput, match=r"'pumps:2' is no fleet.*; write diff"):
                place.fleet("pumps:1").diff("pumps:2")


def test_an_event_loop_is_not_blocked(world):
    home, server = world
    frame = rows(50)
    wishes = {"outcome": True, "model_level": True, "snapshot": True}
    with shoal.open(home) as workspace:
        expected = workspace.fleet("pumps").predict(frame, **wishes)

    async def ask(url):
        async with shoal.connect_async(url) as client:
            fleet = await client.fleet("pumps")
            answers = await asyncio.gather(*[fleet.predict(frame, **wishes) for _ in range(20)])
            single = await (await fleet.model("d1")).predict(frame.drop("device"))
            with pytest.raises(InvalidInput, match="this is the model of 'd1'"):
                await (await fleet.model("d1")).predict(frame)
            return answers, single, [one.name for one in await client.fleets()], await client.runs()

    answers, single, fleets, runs = asyncio.run(ask(server.url))
    for answer in answers:
        require_same(answer, expected)
    assert single.height == 50
    assert fleets == ["pumps"]
    assert runs == []


def test_two_servers_follow_promotions_and_stand_in_for_each_other(home):
    frame = rows(20)
    folder = home.parent
    with serving(home, folder / "one") as one, serving(home, folder / "two") as two, shoal.connect(one.url) as client:
        known = wait_for(lambda: client.services(name="pumps"), 2)
        assert {service.url for service in known} == {one.url, two.url}
        change = client.promote("pumps", 2, expected=1, reason="better")
        assert (change.before, change.after) == (1, 2)
        for server in (one, two):
            with shoal.connect(server.url) as other:
                wait_until(lambda other=other: other.fleet("pumps").version == 2)
        assert client.rollback("pumps").after == 1
        with shoal.open(home) as workspace:
            before = workspace.fleet("pumps:1").predict(frame)
        fleet = client.fleet("pumps:1")
        assert one.end() == 0
        for _ in range(5):
            assert fleet.predict(frame).equals(before)
        with shoal.connect(two.url) as other:
            wait_until(lambda: [service.url for service in other.services()] == [two.url])


def test_a_single_model_is_found_by_its_key_where_servers_serve_different_snapshots(home):
    estimator = Ridge(alpha=1e-9).fit([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]], [7.0, 9.0, 8.0])
    later = shoal.Fleet.from_estimators(
        keys=["device"], models={("d9",): estimator}, features=["a", "b"], task="regression", name="pumps"
    )
    with shoal.open(home) as workspace:
        version = workspace.register(later).version
    frame = pl.DataFrame({"a": [1.0, 0.5], "b": [2.0, -1.0]})
    folder = home.parent
    with (
        serving(home, folder / "one", "pumps:1") as one,
        serving(home, folder / "two", f"pumps:{version}") as two,
        shoal.connect(one.url) as client,
    ):
        known = wait_for(lambda: client.services(name="pumps"), 2)
        assert {service.url for service in known} == {one.url, two.url}
        for key, truth in (("d9", estimator.predict(frame.to_numpy())), ("d3", 1.0 * frame.sum_horizontal() + 3)):
            for _ in range(2):  # each server's turn to be asked first
                found = client.fleet("pumps")[key].predict(frame)["prediction"]
                np.testing.assert_allclose(found, truth, rtol=1e-6)
        with pytest.raises(NotFound, match="nobody"):
            client.fleet("pumps")["nobody"]


def test_services_are_found_by_what_they_hold(world):
    _, server = world
    with shoal.connect(server.url) as client:
        # The server knows itself at once, and what fleets are once the registry has answered.
        wait_for(lambda: client.services(tag="wet"), 1)
        found = [
            client.services(tag="wet"),
            client.services(category="water"),
            client.services(key="d3"),
            client.services(name="pumps", key="d3"),
        ]
        assert [len(services) for services in found] == [1, 1, 1, 1]
        served = found[0][0].fleets[0]
        assert (served.name, served.version, served.category, served.tags) == ("pumps", 1, "water", ("wet",))
        assert served.metadata_url == f"{server.url}/v2/models/pumps"
        assert client.services(tag="dry") == client.services(key="nobody") == []


def test_keys_are_sent_and_what_they_may_not_do_is_told(home):
    with shoal.open(home) as workspace:
        key = workspace.create_key("app", Role.PREDICTOR).text
    with serving(home, home.parent / "server") as server:
        with shoal.connect(server.url, api_key=key) as client:
            assert client.fleet("pumps").predict(rows(3)).height == 3
            with pytest.raises(Forbidden, match="role"):
                client.promote("pumps", 2)
        with shoal.connect(server.url) as stranger, pytest.raises(Unauthenticated):
            stranger.fleet("pumps")


def test_statistics_are_told_on_the_command_line_as_in_python(world):
    home, server = world
    with shoal.connect(server.url) as client:
        client.fleet("pumps").predict(rows(7))
        assert post(f"{server.url}/v2/models/pumps/infer", json={"inputs": []}).status_code == 400
        told = client.statistics("pumps")  # of each version that was asked, by number too
    with shoal.open(home) as workspace:
        wait_until(workspace.services)  # the registry hears of a server a moment after it is ready
    shown = command(home, "fleets", "stats", "pumps", "--json")
    assert shown.returncode == 0, shown.stderr
    listed = json.loads(shown.stdout)
    names = told[0].__struct_fields__
    assert [{name: one[name] for name in names} for one in listed] == [msgspec.structs.asdict(one) for one in told]
    assert {one["server"] for one in listed} == {server.url}
    now = max(told, key=lambda one: one.last_request_at_ms)
    assert now.input_ns > 0
    assert now.output_ns > 0
    assert (now.failures > 0, now.failure_ns > 0) == (True, True)
    by_url = command(home.parent / "nothing", "fleets", "stats", "--url", server.url)
    assert by_url.stdout.split()[:3] == ["SERVER", "NAME", "VERSION"]
    assert "no server serves" in command(home, "fleets", "stats", "nobody").stderr
    assert "no server answers" in command(home, "fleets", "stats", "--url", "http://127.0.0.1:9").stderr
    assert "no server is alive" in command(home.parent / "nothing", "fleets", "stats").stderr


def test_what_does_not_fit_says_so(world):
    _, server = world
    with shoal.connect(server.url) as client:
        with pytest.raises(InvalidInput, match="lacks the input"):
            client.fleet("pumps").predict({"device": ["d1"], "a": [1.0]})
        with pytest.raises(InvalidInput, match="lack the key column"):
            client.fleet("pumps").predict({"a": [1.0], "b": [1.0]})
        with pytest.raises(InvalidInput, match="takes a number"):
            client.fleet("pumps").predict({"device": ["d1"], "a": [[1.0]], "b": [1.0]})
        for reference in ("nobody", "pumps:7", "pumps@nobody"):
            with pytest.raises(NotFound):
                client.fleet(reference)
        with pytest.raises(NotFound):
            client.fleet("pumps")["d77"]
    with socket.socket() as nobody:  # bound, so that nobody else takes it, and not listening
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with shoal.connect(url) as late, pytest.raises(StorageError, match="is the server running"):
            late.fleets()
    with pytest.raises(InvalidInput, match="http://"):
        shoal.connect("localhost:8080")


def wait_for(look, count):
    """What there is once there are so many, or after a while."""
    deadline = time.monotonic() + 20
    while len(found := look()) != count and time.monotonic() < deadline:
        time.sleep(0.1)
    return found
