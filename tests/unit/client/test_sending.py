"""Which server is asked, how often again, and what an answer means: the course, driven by hand."""

import datetime as dt

import msgspec
import pytest

from shoal.client import questions
from shoal.client.exchange import Door, error_of, get, part, reading, send
from shoal.client.routes import Routes
from shoal.client.sending import ATTEMPTS, Ask, Pause, Told, Unreachable, course
from shoal.errors import Conflict, InvalidInput, NotFound, StorageError, Unavailable
from shoal.serving.services import ServedFleet, Service

ENTRY = "http://entry:1"
NUMBERS = reading(list[int])
GOOD = Told(status=200, content=b"[1,2]", retry_after=None)


def service(number, fleet="pumps", *, admin=False):
    url = f"http://server-{number}:1"
    served = ServedFleet(name=fleet, version=1, wanted=1, category="", tags=(), metadata_url=f"{url}/x")
    return Service(
        id=str(number),
        url=url,
        grpc_url=None,
        admin_url=f"http://admin-{number}:1" if admin else None,
        secured=False,
        authenticated=False,
        category="",
        fleets=(served,),
        staleness_s=0.0,
        started_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        beat_at=None,
    )


def drive(question, routes, *reports):
    """Run a course with these reports; its steps and its answer or error."""
    steps, course_ = [], course(question, routes)
    report, left = None, list(reports)
    while True:
        try:
            step = course_.send(report)
        except StopIteration as done:
            return steps, done.value
        except Exception as error:
            return steps, error
        steps.append(step)
        report = None if isinstance(step, Pause) else left.pop(0)


def discovered(*services):
    return Told(status=200, content=msgspec.json.encode(list(services)), retry_after=None)


def urls(steps):
    return [step.url for step in steps if isinstance(step, Ask)]


def test_what_is_about_no_fleet_goes_to_the_entry():
    steps, answer = drive(get("/api/v1/fleets", NUMBERS, tag="a b"), Routes(entry=ENTRY), GOOD)
    assert answer == [1, 2]
    assert steps == [Ask(url=ENTRY, method="GET", path="/api/v1/fleets?tag=a+b", body=None)]


def test_servers_of_the_fleet_are_asked_in_turns_and_remembered():
    clock = [0.0]
    routes = Routes(entry=ENTRY, clock=lambda: clock[0])
    question = get("/v2/models/pumps", NUMBERS, about="pumps")
    steps, _ = drive(question, routes, discovered(service(1), service(2)), GOOD)
    assert steps[0].path == "/api/v1/services?name=pumps"
    seen = [urls(steps)[1]]
    for _ in range(3):
        steps, _ = drive(question, routes, GOOD)
        assert len(steps) == 1
        seen += urls(steps)
    assert set(seen) == {"http://server-1:1", "http://server-2:1"}
    assert seen[:2] == seen[2:]
    clock[0] = 6.0
    steps, _ = drive(question, routes, discovered(service(3)), GOOD)
    assert urls(steps) == [ENTRY, "http://server-3:1"]


def test_another_server_answers_for_one_that_is_gone():
    routes = Routes(entry=ENTRY)
    question = get("/v2/models/pumps", NUMBERS, about="pumps")
    gone = Unreachable(reason="refused", sent=False)
    steps, answer = drive(question, routes, discovered(service(1)), gone, GOOD)
    assert answer == [1, 2]
    assert urls(steps) == [ENTRY, "http://server-1:1", ENTRY]
    steps, _ = drive(question, routes, discovered(service(1)), GOOD)
    assert urls(steps)[-1] == ENTRY, "it is asked last for a while"


def test_when_the_entry_is_gone_the_others_are_asked_who_is_there():
    clock = [0.0]
    routes = Routes(entry=ENTRY, clock=lambda: clock[0])
    question = get("/v2/models/pumps", NUMBERS, about="pumps")
    drive(question, routes, discovered(service(1)), GOOD)
    clock[0] = 6.0
    gone = Unreachable(reason="refused", sent=False)
    steps, answer = drive(question, routes, gone, discovered(service(2)), GOOD)
    assert answer == [1, 2]
    assert urls(steps) == [ENTRY, "http://server-1:1", "http://server-2:1"]


def test_a_single_model_that_a_server_lacks_is_found_by_its_key():
    """Servers may serve different snapshots of a fleet, one that is pinned for example."""
    missing = Told(status=404, content=b"{\"error\": \"fleet 'pumps' has no model 'd7:s 1'\"}", retry_after=None)
    routes = Routes(entry=ENTRY)
    question = get("/v2/models/pumps:d7:s%201", NUMBERS, about="pumps:d7:s%201")
    holders = discovered(service(1), service(2), service(3))
    steps, answer = drive(question, routes, discovered(service(1)), missing, holders, missing, GOOD)
    assert answer == [1, 2]
    assert steps[2].path == "/api/v1/services?name=pumps&key=d7%3As%25201"
    assert urls(steps) == [ENTRY, "http://server-1:1", ENTRY, "http://server-2:1", "http://server-3:1"]
    for found in (discovered(), discovered(service(1)), missing):
        steps, error = drive(question, Routes(entry=ENTRY), discovered(service(1)), missing, found)
        assert isinstance(error, NotFound)
        assert "has no model" in str(error)
        assert len(steps) == 3
    steps, error = drive(get("/v2/models/p", NUMBERS, about="p"), routes, discovered(service(1)), missing)
    assert isinstance(error, NotFound)
    assert len(steps) == 2, "a fleet that is not there is no matter of keys"


def test_without_discovery_the_entry_is_asked():
    missing = Told(status=404, content=b'{"error": "no such route"}', retry_after=None)
    steps, answer = drive(get("/v2/models/p", NUMBERS, about="p"), Routes(entry=ENTRY), missing, GOOD)
    assert answer == [1, 2]
    assert urls(steps) == [ENTRY, ENTRY]


def test_a_busy_server_is_given_the_time_it_asks_for():
    busy = Told(status=503, content=b'{"error": "full"}', retry_after="1")
    steps, error = drive(get("/x", NUMBERS), Routes(entry=ENTRY), *[busy] * ATTEMPTS)
    assert isinstance(error, Unavailable)
    assert str(error) == "full"
    pauses = [step.seconds for step in steps if isinstance(step, Pause)]
    assert len(pauses) == ATTEMPTS - 1
    assert all(0.5 <= pause <= 2.0 for pause in pauses)


def test_what_is_wrong_is_not_asked_again():
    refused = Told(status=404, content=b'{"error": "no fleet"}', retry_after=None)
    steps, error = drive(get("/x", NUMBERS), Routes(entry=ENTRY), refused)
    assert isinstance(error, NotFound)
    assert len(steps) == 1


@pytest.mark.parametrize(("sent", "asked"), [(True, 1), (False, 2)])
def test_a_change_that_may_have_arrived_is_not_sent_again(sent, asked):
    question = send("POST", "/promote", {"version": 1}, NUMBERS)
    steps, answer = drive(question, Routes(entry=ENTRY), Unreachable(reason="cut", sent=sent), GOOD)
    assert len(urls(steps)) == asked
    assert isinstance(answer, StorageError) is sent


def test_a_change_with_a_key_is_sent_again_with_the_same_key():
    question = questions.promote("pumps", 2, "champion", None, "", None)
    cut = Unreachable(reason="cut", sent=True)
    moved = {"fleet": "pumps", "alias": "champion", "number": 2, "move": "promote", "before": 1, "after": 2,
             "actor": "ann", "at": "2026-01-01T00:00:00Z", "reason": ""}  # fmt: skip
    told = Told(status=200, content=msgspec.json.encode(moved), retry_after=None)
    steps, answer = drive(question, Routes(entry=ENTRY), discovered(), cut, told)
    keys = [step.headers["Idempotency-Key"] for step in steps if isinstance(step, Ask) and step.method == "POST"]
    assert answer.after == 2
    assert len(keys) == 2
    assert len(set(keys)) == 1
    again = questions.promote("pumps", 2, "champion", None, "", None)
    assert again.headers["Idempotency-Key"] != keys[0]
    assert questions.rollback("pumps", "champion", None, "", "mine").headers == {"Idempotency-Key": "mine"}


def test_a_stranger_is_told_from_a_shoal_server():
    page = Told(status=200, content=b"<html>", retry_after=None)
    _, error = drive(get("/x", NUMBERS), Routes(entry=ENTRY), page)
    assert isinstance(error, StorageError)
    assert "Shoal server" in str(error)


@pytest.mark.parametrize(
    ("status", "kind"), [(400, InvalidInput), (404, NotFound), (409, Conflict), (503, Unavailable), (500, StorageError)]
)
def test_statuses_become_errors(status, kind):
    assert type(error_of(status, b'{"error": "so"}', None)) is kind
    assert str(error_of(status, b"not json", None)) == f"the server answered with status {status}"


def test_names_are_one_part_of_a_path():
    assert part("a/b:c%2F") == "a%2Fb%3Ac%252F"


MANAGING = get("/api/v1/fleets", NUMBERS, door=Door.MANAGEMENT)
KEPT = get("/api/v1/predictions", NUMBERS, door=Door.INFERENCE)


@pytest.mark.parametrize(
    ("entry", "services", "question", "asked"),
    [
        (ENTRY, [], MANAGING, ENTRY),
        (ENTRY, [service(1)], MANAGING, ENTRY),
        (ENTRY, [service(1)], KEPT, ENTRY),
        ("http://server-2:1", [service(1, admin=True), service(2, admin=True)], MANAGING, "http://admin-2:1"),
        ("http://admin-2:1", [service(1, admin=True), service(2, admin=True)], MANAGING, "http://admin-2:1"),
        ("http://admin-2:1", [service(1, admin=True), service(2, admin=True)], KEPT, "http://server-2:1"),
        (ENTRY, [service(1, admin=True)], MANAGING, "http://admin-1:1"),
        (ENTRY, [service(1, admin=True)], KEPT, ENTRY),
    ],
)
def test_management_and_inference_are_asked_at_their_doors(entry, services, question, asked):
    routes = Routes(entry=entry)
    steps, answer = drive(question, routes, discovered(*services), GOOD)
    assert answer == [1, 2]
    assert urls(steps) == [entry, asked]
    steps, _ = drive(question, routes, GOOD)
    assert urls(steps) == [asked], "who is there is remembered"


def test_when_a_door_is_shut_the_next_servers_is_tried():
    routes = Routes(entry="http://server-1:1")
    gone = Unreachable(reason="refused", sent=False)
    steps, answer = drive(MANAGING, routes, discovered(service(1, admin=True), service(2, admin=True)), gone, GOOD)
    assert answer == [1, 2]
    assert urls(steps)[1:] == ["http://admin-1:1", "http://admin-2:1"]


@pytest.mark.parametrize(("retry_after", "again"), [("1", True), (None, False)])
def test_a_change_that_failed_is_sent_again_only_where_it_was_refused(retry_after, again):
    failed = Told(status=503, content=b'{"error": "no"}', retry_after=retry_after)
    question = send("POST", "/keys", {"name": "x"}, NUMBERS)
    steps, answer = drive(question, Routes(entry=ENTRY), failed, GOOD)
    assert len(urls(steps)) == 1 + again
    assert isinstance(answer, Unavailable) is not again


def test_what_json_cannot_hold_is_not_sent():
    with pytest.raises(InvalidInput, match="JSON"):
        send("PUT", "/x", {"spec": object()}, NUMBERS)
