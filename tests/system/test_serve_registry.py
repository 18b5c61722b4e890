"""Servers whose snapshots are damaged, or whose database is replaced, blocked or away: real files, real processes."""

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest
from serve_process import (
    answer_of,
    children,
    command,
    get,
    make_home,
    post,
    request,
    serving,
    wait_until,
    with_constants,
)

import shoal
from shoal.security.permissions import Role
from shoal.server.handover import newest
from shoal.serving.services import ALIVE_S, Survey
from shoal.telemetry.pages import Page, newest_stamped
from tests.databases import PostgresqlServer

INFER = "/v2/models/pumps/infer"
PATIENCE_S = 60


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template") / "home"
    make_home(folder)
    return folder


@pytest.fixture
def home(template, tmp_path):
    shutil.copytree(template, tmp_path / "home")
    return tmp_path / "home"


def damage(home, version):
    """Flip a byte in the middle of a snapshot's parameters."""
    with shoal.open(home) as workspace:
        block = workspace._storehouse.manifest(workspace.registry.snapshot("pumps", version)).blocks[0].digest
    path = home / "store" / "blocks" / f"{block}.arrow"
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def promote_unseen(home, version):
    """As somebody does who has the database and not the store."""
    with shoal.open(home) as workspace:
        workspace.registry.promote("pumps", version, actor="ada")


def metrics(server):
    return get(server.url + "/metrics").text


def test_what_cannot_be_opened_is_not_promoted(home, tmp_path):
    damage(home, 2)
    refused = command(home, "promote", "pumps:2")
    assert refused.returncode == 1
    assert "pumps:2 cannot be opened" in refused.stderr
    assert "Traceback" not in refused.stderr
    with serving(home, tmp_path, "pumps", "--no-grpc") as server, server.client() as client:
        over_http = client.post("/api/v1/fleets/pumps/promote", json={"version": 2})
        assert over_http.status_code == 409
        assert "cannot be opened" in over_http.json()["error"]
        assert answer_of(client.post(INFER, json=request()))[0] == "1"
    with shoal.open(home) as workspace:
        assert [move.after for move in workspace.registry.alias_history("pumps")] == [1]


def test_a_damaged_version_that_somebody_asks_for_says_so_and_names_no_file(home, tmp_path):
    damage(home, 2)
    with serving(home, tmp_path, "pumps", "--no-grpc") as server, server.client() as client:
        for _ in range(2):
            refused = client.post("/v2/models/pumps/versions/2/infer", json=request())
            assert refused.status_code == 503
            assert float(refused.headers["retry-after"]) >= 1
            told = refused.json()["error"]
            assert "cannot be served from version 2: its files are damaged" in told
            assert str(home) not in told
        assert answer_of(client.post(INFER, json=request()))[0] == "1"
        assert server.end() == 0
        assert str(home / "store" / "blocks") in server.news()
        assert "Traceback" not in server.news()


def test_nobody_goes_back_to_what_cannot_be_opened(home, tmp_path):
    assert command(home, "promote", "pumps:2").returncode == 0
    damage(home, 1)
    refused = command(home, "rollback", "pumps")
    assert refused.returncode == 1
    assert "pumps:1 cannot be opened" in refused.stderr
    assert str(home) in refused.stderr
    with serving(home, tmp_path, "pumps", "--no-grpc") as server, server.client() as client:
        over_http = client.post("/api/v1/fleets/pumps/rollback", json={})
        assert over_http.status_code == 409
        told = over_http.json()["error"]
        assert "pumps:1 cannot be opened" in told
        assert str(home) not in told
        assert over_http.headers["x-request-id"] in told
        wait_until(lambda: over_http.headers["x-request-id"] in server.news())
        assert server.end() == 0
        said = [line for line in server.news().splitlines() if over_http.headers["x-request-id"] in line]
        assert any(str(home) in line for line in said)
    with shoal.open(home) as workspace:
        assert [move.after for move in workspace.registry.alias_history("pumps")] == [2, 1]


def test_a_promotion_that_cannot_be_served_shows_and_splits_no_workers(home, tmp_path):
    damage(home, 2)
    with serving(home, tmp_path, "pumps", "--workers", "2", "--no-grpc") as server, server.client() as client:
        promote_unseen(home, 2)
        wait_until(lambda: 'shoal_fleet_missed{fleet="pumps"} 2.0' in metrics(server))
        held = wait_until(
            lambda: (found := client.get("/api/v1/services").json())[0]["fleets"][0]["wanted"] == 2 and found
        )
        assert held[0]["fleets"][0]["version"] == 1
        told = re.compile(r"snapshot 2 cannot be served: .*version 1 goes on")
        wait_until(lambda: len(told.findall(server.news())) >= 2)
        assert len(told.findall(server.news())) == 2  # each says it once
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_until(lambda: "ended (SIGKILL)" in server.news() and len(server.workers()) == 2)
        wait_until(lambda: "shoal_workers_ready 2.0" in metrics(server))
        answers = [post(server.url + INFER, json=request()) for _ in range(20)]  # a connection each
        assert {answer.status_code for answer in answers} == {200}
        assert {answer_of(answer)[0] for answer in answers} == {"1"}
        promote_unseen(home, 1)
        wait_until(lambda: 'shoal_fleet_missed{fleet="pumps"} 0.0' in metrics(server))


def test_a_server_starts_with_the_snapshot_before_a_broken_champion(home, tmp_path):
    damage(home, 2)
    promote_unseen(home, 2)
    with serving(home, tmp_path, "pumps", "--no-grpc") as server, server.client() as client:
        assert answer_of(client.post(INFER, json=request()))[0] == "1"
        index = client.post("/v2/repository/index", json={}).json()
        assert server.end() == 0
        assert "Serving pumps:1" in server.news()
    assert index[0]["state"] == "READY"
    assert "snapshot 2 cannot be served" in index[0]["reason"]
    assert str(home) not in index[0]["reason"]
    assert re.search(f"snapshot 2 cannot be served: .*{home}", server.news())
    refused = command(home, "serve", "pumps:2", "--port", "0", "--no-grpc")
    assert refused.returncode == 1
    assert "snapshot 2 cannot be served" in refused.stderr


def backup(home):
    """A copy of the database as SQLite makes it."""
    with sqlite3.connect(home / "shoal.db") as source, sqlite3.connect(home / "copy.db") as target:
        source.backup(target)
    return home / "copy.db"


def put_back(home, copy):
    """The file of before goes first: nobody must find the new one beside the log of the old one."""
    for end in ("", "-wal", "-shm"):
        (home / f"shoal.db{end}").unlink(missing_ok=True)
    copy.replace(home / "shoal.db")


def take_away(home):
    copy = backup(home)
    for file in sorted(home.glob("shoal.db*")):  # the logs last
        file.unlink(missing_ok=True)
    return copy


def test_a_database_that_was_restored_from_a_backup_is_followed(home, tmp_path):
    with serving(home, tmp_path, "pumps", "--no-grpc") as server, server.client() as client:
        put_back(home, backup(home))
        assert command(home, "promote", "pumps:2").returncode == 0
        wait_until(lambda: answer_of(client.post(INFER, json=request()))[0] == "2")
        accepted = wait_until(
            lambda: (r := client.post(INFER + "/async", json=request())).status_code == 202 and r.json()["id"]
        )
        assert accepted in command(home, "predictions", "list").stdout
        copy = take_away(home)
        refused = client.post(INFER + "/async", json=request())
        assert refused.status_code == 503
        assert client.post("/v2/repository/models/pumps/unload").status_code == 503
        assert client.post(INFER, json=request()).status_code == 200
        assert not (home / "shoal.db").exists()
        put_back(home, copy)
        wait_until(lambda: client.post("/v2/repository/models/pumps/unload").status_code == 200)


@pytest.fixture(scope="module")
def database_server():
    """A PostgreSQL server of this module's own, for it is stopped."""
    server = PostgresqlServer()
    yield server
    server.remove()


@pytest.fixture
def away(database_server, tmp_path, monkeypatch):
    """A workspace on PostgreSQL with an API key, and what takes its database away and brings it back."""
    monkeypatch.setenv("SHOAL_DATABASE_URL", database_server.url(database_server.create()))
    make_home(tmp_path / "home")
    with shoal.open(tmp_path / "home") as workspace:
        key = workspace.create_key("shop", Role.OPERATOR).text
    yield tmp_path / "home", key
    if database_server.is_stopped:
        database_server.start()


@contextlib.contextmanager
def pages_of(server, kind):
    """What its processes have written down for each other: metrics, statistics, handovers or surveys."""
    folder = Path(f"/proc/{server.process.pid}/fd")
    pages = sorted(int(one.name) for one in folder.iterdir() if str(one.readlink()).startswith("/memfd:shoal"))
    count = len(pages) // len(PAGES)
    first = count * PAGES.index(kind)
    opened = [os.open(folder / str(page), os.O_RDONLY) for page in pages[first : first + count]]
    try:
        yield [Page(one) for one in opened]
    finally:
        for one in opened:
            os.close(one)


PAGES = ("metrics", "statistics", "handovers", "surveys")


def handed_over(server):
    """What the next worker would find written down by those of now; None before anything is."""
    with pages_of(server, "handovers") as pages:
        return newest(pages)


def surveyed(server):
    """The addresses of servers of which the registry told one of its processes last."""
    with pages_of(server, "surveys") as pages:
        found = newest_stamped(pages)
    survey = Survey() if found is None else msgspec.msgpack.decode(found[1], type=Survey)
    return [one.url for one in survey.servers]


def staleness_s(client):
    found = re.search(r"^shoal_registry_staleness_seconds (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1])


def replaced(server, before):
    """Wait until other processes sit where the killed ones did."""
    return wait_until(lambda: len(now := server.workers()) == len(before) and not set(now) & set(before))


def answered(client):
    try:
        return client.post(INFER, json=request())
    except httpx.TransportError:
        return None


def test_a_worker_that_dies_while_the_database_is_away_is_replaced(away, database_server, tmp_path):
    home, key = away
    with serving(home, tmp_path, "--no-grpc") as server, server.client(key) as client:
        assert client.post(INFER, json=request()).status_code == 200
        before = server.workers()
        told = wait_until(lambda: handed_over(server))
        assert ([one.name for one in told.keys], [one.fleet for one in told.known.wanted]) == (["shop"], ["pumps"])
        database_server.stop()
        stopped_s = time.monotonic()
        wait_until(lambda: staleness_s(client) > 3)  # so that one who begins anew would be found out
        os.kill(before[0], signal.SIGKILL)
        replaced(server, before)
        answer = wait_until(lambda: answered(client))
        assert (answer.status_code, answer_of(answer)) == (200, ("1", pytest.approx(4)))
        # It goes on counting where its predecessor ended; what is told is a second old, or more.
        wait_until(lambda: staleness_s(client) >= time.monotonic() - stopped_s - 1)
        assert post(server.url + INFER, json=request()).status_code == 401
        with server.client(key[:-1] + ("0" if key[-1] != "0" else "1")) as stranger:
            assert stranger.post(INFER, json=request()).status_code == 401
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)  # the supervisor has to hear of it first
        database_server.start()
        assert command(home, "promote", "pumps:2").returncode == 0
        wait_until(lambda: answer_of(client.post(INFER, json=request()))[0] == "2")
        wait_until(lambda: staleness_s(client) < 1)
        assert server.end() == 0


def test_a_worker_is_replaced_while_the_file_of_the_database_is_missing(home, tmp_path):
    damage(home, 2)
    with serving(home, tmp_path, "--no-grpc", "--admin-port", "0") as server, server.client() as client:
        promote_unseen(home, 2)
        wait_until(lambda: "snapshot 2 cannot be served" in server.news())
        wait_until(lambda: (told := handed_over(server)) and told.known.served)  # what is served in its place
        copy, before = take_away(home), server.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        replaced(server, before)
        answer = wait_until(lambda: answered(client))
        assert answer_of(answer)[0] == "1"  # what its predecessor served in the place of what was promoted
        assert not (home / "shoal.db").exists()
        wait_until(lambda: _is_up(server.admin_url))
        put_back(home, copy)
        with httpx.Client(base_url=server.admin_url, timeout=PATIENCE_S) as admin:
            wait_until(lambda: staleness_s(admin) < 1)


def _is_up(url):
    try:
        return get(url + "/health/live").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def waited_for(monkeypatch):
    """Whoever turns to a database that is away waits for longer than any client here: what is answered, did not."""
    monkeypatch.setattr("serve_process.SHOAL", with_constants({"shoal.storage.sql.RECONNECT_S": 10.0 * PATIENCE_S}))


@pytest.mark.usefixtures("waited_for")
def test_what_needs_a_database_that_is_away_is_refused_at_once(away, database_server, tmp_path):
    home, key = away
    with serving(home, tmp_path, "--no-grpc") as server, server.client(key) as client:
        wait_until(lambda: is_listed(client))
        database_server.stop()
        wait_until(lambda: staleness_s(client) > 2)
        for ask in (
            lambda: client.post(INFER + "/async", json=request()),
            lambda: client.get("/api/v1/predictions/unknown"),
            lambda: client.post("/v2/repository/models/pumps/unload"),
            lambda: client.get("/v2/models/pumps/versions/2"),
            *(lambda path=path: client.get(f"/api/v1/{path}") for path in MANAGED),
            lambda: client.post("/api/v1/fleets/pumps/promote", json={"version": 2}),
            lambda: client.put("/api/v1/serving/pumps", json={"loaded": False}),
        ):
            require_refused(ask())
        assert client.get("/api/v1/openapi.json").status_code == 200
        assert client.get("/metrics").status_code == 200
        assert client.get("/health/ready").status_code == 200
        assert client.post(INFER, json=request()).status_code == 200
        told = client.get("/api/v1/services?name=pumps")
        assert [service["url"] for service in told.json()] == [server.url]
        assert told.json()[0]["fleets"][0]["version"] == 1
        assert told.json()[0]["staleness_s"] > 2
        assert int(told.headers["age"]) >= 1
        assert client.get("/api/v1/services?tag=none").json() == []
        database_server.start()
        wait_until(lambda: client.post(INFER + "/async", json=request()).status_code == 202)
        wait_until(lambda: "age" not in client.get("/api/v1/services").headers)


def is_listed(client):
    """Whether the registry has heard of the server, and said so."""
    found = client.get("/api/v1/services?name=pumps").json()
    return found and found[0]["beat_at"]


def test_every_worker_tells_of_all_servers_while_the_registry_is_away(away, database_server, tmp_path):
    """Also where nobody had asked any of them before, and those that take a dead one's place."""
    home, key = away
    with shoal.open(home) as workspace:
        workspace.describe("pumps", tags=["water"])
    with (
        serving(home, tmp_path / "one", "--no-grpc", "--workers", "2") as one,
        serving(home, tmp_path / "two", "--no-grpc", "--admin-port", "0") as two,
    ):
        urls = sorted([one.url, two.url])
        doors = (one.url, two.url, two.admin_url)
        wait_until(lambda: sorted(surveyed(one)) == sorted(surveyed(two)) == urls)
        database_server.stop()

        def told(door):
            answer = get(f"{door}/api/v1/services?tag=water", headers={"x-api-key": key})
            return answer.status_code, "age" in answer.headers, sorted(service["url"] for service in answer.json())

        assert [told(door) for door in doors * 10] == [(200, True, urls)] * 30
        before = one.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(one.workers()) - set(before)) == 2 and is_served(one, key))
        assert [told(one.url) for _ in range(20)] == [(200, True, urls)] * 20
        database_server.start()
        wait_until(lambda: all(told(door) == (200, False, urls) for door in doors))


def is_served(server, key):
    try:
        return post(server.url + INFER, json=request(), headers={"x-api-key": key}).status_code == 200
    except httpx.TransportError:
        return False


MANAGED = ("fleets", "fleets/pumps", "fleets/pumps/models", "serving/pumps", "sinks", "runs", "predictions")


def require_refused(answer):
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert "the registry does not answer just now" in answer.json()["error"]
    assert answer.headers["x-request-id"] in answer.json()["error"]


@contextlib.contextmanager
def hanging(database_server):
    """PostgreSQL takes connections and says nothing, for as long as the block lasts."""
    everybody = [database_server.pid]
    try:
        stand_still(database_server.pid)  # from now on it has no more children
        for pid in children(database_server.pid):
            everybody.append(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in everybody:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def stand_still(pid):
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


def is_refused(client):
    """Whether it is known that the registry hangs; who asks before that waits for it."""
    try:
        return client.get("/api/v1/fleets", timeout=3).status_code == 503
    except httpx.TimeoutException:
        return False


def test_a_database_that_hangs_holds_up_nobody_who_manages(away, database_server, tmp_path):
    """Nor with a port for management alone, whose process serves nothing."""
    home, key = away
    with serving(home, tmp_path, "--no-grpc", "--admin-port", "0") as server, server.client(key) as client:
        with httpx.Client(base_url=server.admin_url, headers={"x-api-key": key}, timeout=PATIENCE_S) as admin:
            wait_until(lambda: is_listed(client))
            wait_until(lambda: admin.get("/api/v1/fleets").status_code == 200)
            with hanging(database_server):
                wait_until(lambda: is_refused(admin))
                for path in MANAGED[:-1]:
                    require_refused(admin.get(f"/api/v1/{path}"))
                require_refused(client.get("/api/v1/predictions"))
                found = client.get("/api/v1/services?key=d1")
                assert [service["url"] for service in found.json()] == [server.url]
                assert client.post(INFER, json=request()).status_code == 200
                assert admin.get("/health/live").status_code == 200
            wait_until(lambda: admin.get("/api/v1/fleets").status_code == 200)
        assert server.end() == 0


@pytest.mark.usefixtures("waited_for")
@pytest.mark.parametrize("outage", ["stopped", "hanging"])
def test_who_wants_a_request_kept_hears_of_an_outage_in_a_moment_and_it_is_kept_once(
    away, database_server, tmp_path, outage
):
    home, key = away
    with serving(home, tmp_path, "--no-grpc") as server, server.client(key) as client:

        def ask(number):
            return client.post(INFER + "/async", json=request(a=number), headers={"idempotency-key": str(number)})

        wait_until(lambda: ask(0).status_code == 202)
        with contextlib.ExitStack() as stack:
            if outage == "stopped":
                database_server.stop()
                stack.callback(database_server.start)
            else:
                stack.enter_context(hanging(database_server))
            with ThreadPoolExecutor(8) as pool:
                told = list(pool.map(ask, range(8)))
            reading = client.get("/api/v1/predictions")
        assert {answer.status_code for answer in [*told, reading]} == {503}
        assert all(answer.headers["retry-after"] for answer in told)
        for number in range(8):
            wait_until(lambda number=number: ask(number).status_code == 202)
        listed = wait_until(lambda: (r := client.get("/api/v1/predictions")).status_code == 200 and r.json())
        assert len(listed) == 8
        assert server.end() == 0


@contextlib.contextmanager
def nobody_writes(home):
    """Hold the lock that every writer needs, for as long as the block lasts."""
    with contextlib.closing(sqlite3.connect(home / "shoal.db", PATIENCE_S, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def test_a_server_that_cannot_tell_the_registry_of_itself_lists_itself(home, tmp_path):
    with serving(home, tmp_path, "--no-grpc") as server, server.client() as client:
        wait_until(lambda: client.get("/api/v1/services").json()[0]["beat_at"])
        with shoal.open(home) as workspace, nobody_writes(home):
            wait_until(lambda: not workspace.registry.servers(ALIVE_S))
            wait_until(lambda: not is_listed(client))
            alone = client.get("/api/v1/services?name=pumps").json()
            assert [(one["url"], one["fleets"][0]["version"], one["beat_at"]) for one in alone] == [
                (server.url, 1, None)
            ]
            # It reads all the while.
            wait_until(lambda: client.get("/api/v1/services?name=pumps").json()[0]["staleness_s"] < 2)


def test_a_write_that_waits_keeps_nobody_from_following(home, tmp_path, monkeypatch):
    # So that it still waits when somebody is held up; else five seconds.
    pragmas = ("busy_timeout = 60000", "foreign_keys = ON", "synchronous = FULL")
    monkeypatch.setattr("serve_process.SHOAL", with_constants({"shoal.storage.sqlite_engine.PRAGMAS": pragmas}))
    with serving(home, tmp_path, "--no-grpc") as server, server.client() as client, ThreadPoolExecutor(1) as apart:
        with nobody_writes(home):
            waiting = apart.submit(post, server.url + "/v2/repository/models/pumps/unload")
            wait_until(lambda: "shoal_requests_under_way 2.0" in metrics(server))  # it, and who asks for the metrics
            time.sleep(3)
            assert not waiting.done()
            wait_until(lambda: staleness_s(client) < 1.5)
        assert waiting.result().status_code == 200
        assert client.post(INFER, json=request()).status_code == 503
