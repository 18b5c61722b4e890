"""A real server against its own description: whatever fits it and whatever does not, nothing breaks.

Requests are made by schemathesis from the description, of every route, those that change something too. Names in a path
are sometimes those of what is there, and the inputs of a prediction sometimes those that the fleet takes, for by
chance neither would ever be met.
"""

import contextlib

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import GenerationConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serve_process import SLOPES, make_home, request, serving, wait_until

import shoal
from shoal.security.permissions import Role
from shoal.server.permissions import TABLE

EXAMPLES = 12
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
REAL = {
    "model": ["pumps", "pumps:d1", "pumps:d%31", "pumps:nothing"],
    "name": ["pumps"],
    "version": ["1", "2", "9"],
    "id": ["none"],
    "run": ["none"],
}
NAMES = {"/api/v1/sources/{name}": ["devices"], "/api/v1/sinks/{name}": ["lake"]}
"""Where ``name`` is not a fleet's."""
QUERIES = {
    "/api/v1/fleets/{name}/models/history": {"key": ["d1"]},
    "/api/v1/fleets/{name}/diff": {"before": ["1", "champion"], "after": ["2"]},
    "/api/v1/predictions/purge": {"fleet": ["pumps"], "before": ["2026-01-31T12:00:00Z"]},
}
BAD_REQUEST, UNAVAILABLE = 400, 503


@contextlib.contextmanager
def world(folder):
    """A server with something of everything, an administrator's key, and a session that shows it."""
    make_home(folder / "home")
    with shoal.open(folder / "home") as workspace:
        key = workspace.create_key("admin", Role.ADMIN).text
        workspace.set_source("devices", {"kind": "parquet", "path": str(folder / "devices.parquet")})
        workspace.set_sink("lake", {"kind": "parquet_sink", "folder": str(folder / "lake")})
    with serving(folder / "home", folder) as server, requests.Session() as session:
        session.trust_env = False
        session.headers["x-api-key"] = key
        yield server, key, session


def test_every_route_does_what_the_description_says(tmp_path):
    with world(tmp_path) as (server, key, session):
        asked = {}
        for operation in described(server, key):
            restore(server.url, session)  # the one before may have changed everything
            asked[operation.label] = answers(operation, session)
        restore(server.url, session)
        assert session.post(f"{server.url}/v2/models/pumps/infer", json=request()).status_code == 200
        assert server.end() == 0
        news = server.news()
    assert set(asked) == {f"{method} {path}" for method, path, _ in TABLE} - {"GET /api/v1/openapi.json"}  # was read
    assert {label for label, statuses in asked.items() if not statuses & {200, 201, 202}} <= UNKNOWN
    assert "Traceback" not in news


def test_an_unloaded_fleet_is_refused_as_the_description_says(tmp_path):
    with world(tmp_path) as (server, key, session):
        assert session.post(f"{server.url}/v2/repository/models/pumps/unload").status_code == 200
        told = {}
        for operation in described(server, key):
            if operation.label in ABOUT_A_MODEL:
                body = {} if operation.method == "get" else {"body": request(), "media_type": "application/json"}
                case = operation.Case(path_parameters={"model": "pumps", "version": "1"}, **body)
                answer = case.call(session=session)
                told[operation.label] = answer.status_code
                judge(case, answer)
    assert told == dict.fromkeys(ABOUT_A_MODEL, UNAVAILABLE)


ABOUT_A_MODEL = {
    *("GET /v2/models/{model}", "GET /v2/models/{model}/ready"),
    *("POST /v2/models/{model}/infer", "POST /v2/models/{model}/infer/async"),
    "POST /v2/models/{model}/versions/{version}/infer",
}
UNKNOWN = {
    "GET /api/v1/runs/{run}",
    "GET /api/v1/predictions/{id}",
    "POST /api/v1/predictions/{id}/replay",
    "POST /api/v1/keys/{id}/revoke",
    "POST /api/v1/keys/{id}/rotate",
    "POST /api/v1/fleets/{name}/rollback",
}
"""Routes about what nobody can name by chance."""


def restore(url, session):
    """Have the fleet served again, as in the beginning."""
    wish = {"loaded": True, "alias": "champion", "pinned": None, "spec": {}}
    wait_until(lambda: session.put(f"{url}/api/v1/serving/pumps", json=wish).status_code == 200)
    wait_until(lambda: session.post(f"{url}/v2/repository/models/pumps/load").status_code == 200)


def described(server, key):
    """What the description says there is."""
    config = schemathesis.Config()
    config.projects.default.generation = GenerationConfig(with_security_parameters=False)
    address = server.url + "/api/v1/openapi.json"
    schema = schemathesis.openapi.from_url(address, config=config, headers={"x-api-key": key})
    return [found.ok() for found in schema.get_all_operations()]


def answers(operation, session):
    """Ask a route in ways that fit its description and ways that do not; the statuses that came."""
    statuses = set()
    takes_more_than_names = operation.query or operation.headers or operation.body
    for mode in GenerationMode if takes_more_than_names else [GenerationMode.POSITIVE]:

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
        def ask(case, data):
            make_real(case, data.draw)
            answer = case.call(session=session)
            statuses.add(answer.status_code)
            judge(case, answer)

        try:
            ask()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE  # what takes any text can be given nothing wrong
    return statuses


def make_real(case, draw):
    """Have a case ask about what is there, mostly."""
    mostly = st.sampled_from([True, True, False])
    for name in case.path_parameters or {}:
        if draw(mostly):
            case.path_parameters[name] = draw(st.sampled_from(NAMES.get(case.path) or REAL[name]))
    for name, values in QUERIES.get(case.path, {}).items():
        if name in (case.query or {}) and draw(mostly):
            case.query[name] = draw(st.sampled_from(values))
    if not isinstance(case.body, dict) or not draw(mostly):
        return
    if "/infer" in case.path:
        case.body = {**case.body, "inputs": request()["inputs"]}
        drop(case.body, ["outputs", "parameters"], draw)
        drop(case.headers, list(case.headers), draw)
    elif case.path.endswith("/promote"):
        case.body = {**case.body, "version": draw(st.sampled_from(sorted(SLOPES)))}
        drop(case.body, ["expected", "alias"], draw)
    elif case.path == "/invocations":
        case.body = {"dataframe_records": [{"device": "d1", "a": 1.0, "b": None}]}
        for given in (case.query, case.headers):
            drop(given, list(given), draw)


def drop(mapping, names, draw):
    """Leave some out, mostly all of them."""
    if draw(st.sampled_from([True, True, False])):
        for name in names:
            mapping.pop(name, None)


def judge(case, answer):
    """No server error but a deliberate refusal, and every refusal is as described and says why."""
    checks = CHECKS
    if answer.status_code >= BAD_REQUEST:
        error = answer.json()["error"]
        assert isinstance(error, str)
        assert error
    if answer.status_code == UNAVAILABLE:
        [again_s] = answer.headers.get("retry-after", ["0"])
        assert int(again_s) >= 1 or "unloaded" in error
        checks = [check for check in CHECKS if check is not not_a_server_error]
    case.validate_response(answer, checks=checks)
