"""Which server is asked, how often again, and what an answer means: the course, driven by hand."""

import msgspec
import pytest

from shoal.client.exchange import error_of, get, part, send
from shoal.client.routes import Routes, Served, Service
from shoal.client.sending import ATTEMPTS, Ask, Pause, Told, Unreachable, course
from shoal.errors import Conflict, InvalidInput, NotFound, StorageError, Unavailable

ENTRY = "http://entry:1"
GOOD = Told(status=200, content=b"[1,2]", retry_after=None)


def service(number, fleet="pumps"):
    url = f"http://server-{number}:1"
    return Service(
        id=str(number), url=url, secured=False, fleets=[Served(name=fleet, version=1, metadata_url=f"{url}/x")]
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
    steps, answer = drive(get("/api/v1/fleets", list[int], tag="a b"), Routes(entry=ENTRY), GOOD)
    assert answer == [1, 2]
    assert steps == [Ask(url=ENTRY, method="GET", path="/api/v1/fleets?tag=a+b", body=None)]


def test_servers_of_the_fleet_are_asked_in_turns_and_remembered():
    clock = [0.0]
    routes = Routes(entry=ENTRY, clock=lambda: clock[0])
    question = get("/v2/models/pumps", list[int], fleet="pumps")
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
    question = get("/v2/models/pumps", list[int], fleet="pumps")
    gone = Unreachable(reason="refused", sent=False)
    steps, answer = drive(question, routes, discovered(service(1)), gone, GOOD)
    assert answer == [1, 2]
    assert urls(steps) == [ENTRY, "http://server-1:1", ENTRY]
    steps, _ = drive(question, routes, discovered(service(1)), GOOD)
    assert urls(steps)[-1] == ENTRY, "it is asked last for a while"


def test_when_the_entry_is_gone_the_others_are_asked_who_is_there():
    clock = [0.0]
    routes = Routes(entry=ENTRY, clock=lambda: clock[0])
    question = get("/v2/models/pumps", list[int], fleet="pumps")
    drive(question, routes, discovered(service(1)), GOOD)
    clock[0] = 6.0
    gone = Unreachable(reason="refused", sent=False)
    steps, answer = drive(question, routes, gone, discovered(service(2)), GOOD)
    assert answer == [1, 2]
    assert urls(steps) == [ENTRY, "http://server-1:1", "http://server-2:1"]


def test_without_discovery_the_entry_is_asked():
    missing = Told(status=404, content=b'{"error": "no such route"}', retry_after=None)
    steps, answer = drive(get("/v2/models/p", list[int], fleet="p"), Routes(entry=ENTRY), missing, GOOD)
    assert answer == [1, 2]
    assert urls(steps) == [ENTRY, ENTRY]


def test_a_busy_server_is_given_the_time_it_asks_for():
    busy = Told(status=503, content=b'{"error": "full"}', retry_after="1")
    steps, error = drive(get("/x", list[int]), Routes(entry=ENTRY), *[busy] * ATTEMPTS)
    assert isinstance(error, Unavailable)
    assert str(error) == "full"
    pauses = [step.seconds for step in steps if isinstance(step, Pause)]
    assert len(pauses) == ATTEMPTS - 1
    assert all(0.5 <= pause <= 2.0 for pause in pauses)


def test_what_is_wrong_is_not_asked_again():
    refused = Told(status=404, content=b'{"error": "no fleet"}', retry_after=None)
    steps, error = drive(get("/x", list[int]), Routes(entry=ENTRY), refused)
    assert isinstance(error, NotFound)
    assert len(steps) == 1


@pytest.mark.parametrize(("sent", "asked"), [(True, 1), (False, 2)])
def test_a_change_that_may_have_arrived_is_not_sent_again(sent, asked):
    question = send("POST", "/promote", {"version": 1}, list[int])
    steps, answer = drive(question, Routes(entry=ENTRY), Unreachable(reason="cut", sent=sent), GOOD)
    assert len(urls(steps)) == asked
    assert isinstance(answer, StorageError) is sent


def test_a_stranger_is_told_from_a_shoal_server():
    page = Told(status=200, content=b"<html>", retry_after=None)
    _, error = drive(get("/x", list[int]), Routes(entry=ENTRY), page)
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
