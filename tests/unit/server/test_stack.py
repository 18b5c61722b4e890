import asyncio
import datetime as dt
import json
import os
from types import SimpleNamespace

import pytest
from stack_world import NOW, Keys, world

from shoal.errors import Conflict, InvalidInput, NotFound, Overloaded, StorageError
from shoal.security.permissions import Role
from shoal.server import authentication
from shoal.server.options import Limits

MODEL = "/v2/models/pumps"
INFER = MODEL + "/infer"


def test_a_request_id_is_made_or_taken_and_returned():
    async def run():
        async with world() as here:
            made = [(await here.client.post(INFER)).headers["x-request-id"] for _ in range(3)]
            taken = await here.client.post(INFER, headers={"x-request-id": "abc-1"})
            hostile = await here.client.post(INFER, headers={"x-request-id": "a b" + "c" * 500})
            missing = await here.client.get("/nowhere", headers={"x-request-id": "abc-2"})
            scopes = [scope["shoal.request_id"] for scope in here.echo.scopes]
        assert len(set(made)) == 3
        assert taken.headers["x-request-id"] == "abc-1"
        assert missing.headers["x-request-id"] == "abc-2"
        assert len(hostile.headers["x-request-id"]) < 40
        assert scopes[:4] == [*made, "abc-1"]

    asyncio.run(run())


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_a_key_is_asked_for_as_soon_as_there_is_one(header):
    async def run():
        keys = Keys()
        key = keys.make(Role.PREDICTOR)
        value = f"Bearer {key}" if header == "authorization" else key
        async with world(keys=keys) as here:
            without = await here.client.post(INFER)
            wrong = await here.client.post(INFER, headers={header: value[:-1] + ("0" if value[-1] != "0" else "1")})
            right = await here.client.post(INFER, headers={header: value}, content=b"{}")
            again = await here.client.post(INFER, headers={header: value}, content=b"{}")
            health = await here.client.get("/v2/health/live")
            principal = here.echo.scopes[0]["shoal.principal"]
        assert (without.status_code, wrong.status_code, right.status_code, again.status_code) == (401, 401, 200, 200)
        assert without.headers["www-authenticate"] == "Bearer"
        assert set(without.json()) == {"error"}
        assert health.status_code == 200
        assert (principal.name, principal.role) == ("the predictor", Role.PREDICTOR)

    asyncio.run(run())


def test_expired_and_revoked_keys_are_refused(monkeypatch):
    later = [NOW]
    clock = SimpleNamespace(UTC=dt.UTC, datetime=SimpleNamespace(now=lambda _: later[0]))
    monkeypatch.setattr(authentication, "dt", clock)

    async def run():
        keys = Keys()
        expired = keys.make(Role.PREDICTOR, expires_at=NOW - dt.timedelta(seconds=1))
        revoked = keys.make(Role.PREDICTOR, revoked_at=NOW)
        async with world(keys=keys) as here:
            said = [await here.client.post(INFER, headers={"x-api-key": key}) for key in (expired, revoked)]
            end = NOW + dt.timedelta(seconds=2)
            soon = {"x-api-key": keys.make(Role.PREDICTOR, expires_at=end)}
            here.ring.refresh()
            before = await here.client.post(INFER, headers=soon)
            later[0] = end
            after = await here.client.post(INFER, headers=soon)  # although it was remembered as good
        assert [answer.status_code for answer in said] == [401, 401]
        assert "has expired" in said[0].json()["error"]
        assert "was revoked" in said[1].json()["error"]
        assert (before.status_code, after.status_code) == (200, 401)

    asyncio.run(run())


def test_a_revoked_key_is_forgotten_and_the_server_does_not_open_again():
    async def run():
        keys = Keys()
        key = keys.make(Role.PREDICTOR)
        async with world(keys=keys) as here:
            before = await here.client.post(INFER, headers={"x-api-key": key})
            (record,) = keys.keys()
            keys.keep(type(record)(**{**_fields(record), "revoked_at": NOW}))
            here.ring.refresh()
            after = await here.client.post(INFER, headers={"x-api-key": key})
            without = await here.client.post(INFER)
        assert (before.status_code, after.status_code, without.status_code) == (200, 401, 401)

    asyncio.run(run())


def _fields(record):
    return {name: getattr(record, name) for name in record.__slots__}


def test_a_role_may_do_what_the_table_says_and_nothing_else():
    async def run():
        keys = Keys()
        key = keys.make(Role.READER)
        async with world(keys=keys) as here:
            headers = {"x-api-key": key}
            predict = await here.client.post(INFER, headers=headers)
            read = await here.client.get("/api/v1/fleets", headers=headers)
            unknown = await here.client.get("/api/v1/nothing", headers=headers)
            nobody = await here.client.get("/api/v1/nothing")
            method = await here.client.delete("/api/v1/fleets", headers=headers)
        assert predict.status_code == 403
        assert "role reader, which does not allow to predict" in predict.json()["error"]
        assert read.status_code == 200
        assert unknown.status_code == 404
        assert nobody.status_code == 401
        assert (method.status_code, method.headers["allow"]) == (405, "GET")

    asyncio.run(run())


def test_without_keys_a_page_in_a_browser_cannot_get_in():
    async def run():
        async with world() as here:
            good = [
                await here.client.post(INFER, headers=headers)
                for headers in (
                    {},
                    {"host": "localhost:8080"},
                    {"origin": "http://127.0.0.1:3000"},
                    {"host": "[::1]:1"},
                    {"host": "127.0.0.2:8080", "origin": "http://127.0.0.2:8080"},
                    {"host": "127.255.255.254"},
                    {"host": "LocalHost:1"},
                )
            ]
            bad = [
                await here.client.post(INFER, headers=headers)
                for headers in (
                    {"host": "evil.example"},
                    {"origin": "https://evil.example"},
                    {"origin": "null"},
                    {"sec-fetch-site": "cross-site"},
                    {"host": "127.0.0.1.evil.example:80"},
                    {"host": "127.0.0.2.evil.example"},
                    {"host": "192.0.2.7"},
                    {"host": "[::2]:80"},
                    {"host": "localhost.evil.example"},
                )
            ]
        assert [answer.status_code for answer in good] == [200] * 7
        assert [answer.status_code for answer in bad] == [403] * 9

    asyncio.run(run())


def test_beyond_loopback_nothing_is_open_even_when_the_keys_have_gone():
    async def run():
        async with world(local=False) as here:
            assert (await here.client.post(INFER)).status_code == 401

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("wrong"), 400),
        (NotFound("no such fleet"), 404),
        (Conflict("first"), 409),
        (Overloaded("full", retry_after_s=2.5), 503),
        (StorageError("secret-host:5432 has gone"), 503),
        (RuntimeError("secret detail /etc/passwd"), 500),
    ],
)
def test_errors_are_answered_in_one_form_and_tell_no_secrets(error, status):
    async def run():
        async def door(scope, receive, send):
            raise error

        async with world({"v2": door}) as here:
            answer = await here.client.post(INFER)
        assert answer.status_code == status
        assert list(answer.json()) == ["error"]
        assert "Traceback" not in answer.text
        assert "secret" not in answer.text
        if isinstance(error, StorageError | RuntimeError):
            assert answer.headers["x-request-id"] in answer.json()["error"]
        if isinstance(error, Overloaded):
            assert answer.headers["retry-after"] == "3"
        if isinstance(error, StorageError):
            assert answer.headers["retry-after"] == "1"

    asyncio.run(run())


def test_a_body_that_is_too_large_is_refused():
    async def run():
        async def chunks():
            for _ in range(20):
                yield b"x" * 100

        async with world(limits=Limits(body_bytes=1000)) as here:
            fits = await here.client.post(INFER, content=b"x" * 1000)
            announced = await here.client.post(INFER, content=b"x" * 1001)
            chunked = await here.client.post(INFER, content=chunks())
            entered = len(here.echo.scopes)
        assert (fits.status_code, announced.status_code, chunked.status_code) == (200, 413, 413)
        assert entered == 2  # what announces its size is refused at the door

    asyncio.run(run())


def test_more_than_may_be_under_way_is_refused_at_once():
    async def run():
        async with world(limits=Limits(requests=1, bodies_bytes=100)) as here:
            here.echo.may.clear()
            first = asyncio.create_task(here.client.post(INFER, content=b"a"))
            await here.echo.entered.wait()
            refused = await here.client.post(INFER, content=b"b")
            here.echo.may.set()
            taken = await first
            large = await here.client.post(INFER, content=b"x" * 101)
            after = await here.client.post(INFER, content=b"x" * 100)
        assert (taken.status_code, refused.status_code, after.status_code) == (200, 503, 200)
        assert refused.headers["retry-after"] == "1"
        assert large.status_code == 503

    asyncio.run(run())


def test_bodies_of_unknown_size_count_as_they_come():
    async def run():
        async def chunks(*, goes_on):
            yield b"x" * 60
            await goes_on.wait()
            yield b"x" * 10

        async with world(limits=Limits(bodies_bytes=100)) as here:
            on = asyncio.Event()
            first = asyncio.create_task(here.client.post(INFER, content=chunks(goes_on=on)))
            while here.stack.under_way._bodies_bytes < 60:
                await asyncio.sleep(0.01)
            announced = await here.client.post(INFER, content=b"x" * 41)
            at_once = asyncio.Event()
            at_once.set()
            chunked = await here.client.post(INFER, content=chunks(goes_on=at_once))
            small = await here.client.post(INFER, content=b"x" * 40)
            on.set()
            taken = await first
            left = here.stack.under_way._bodies_bytes
        assert [told.status_code for told in (announced, chunked, small, taken)] == [503, 503, 200, 200]
        assert chunked.json()["error"] == "too many bytes are under way; try again in a second"
        assert left == 0

    asyncio.run(run())


def test_whether_the_server_is_well_is_told_however_much_it_does():
    async def run():
        async with world(limits=Limits(requests=1)) as here:
            here.echo.may.clear()
            first = asyncio.create_task(here.client.post(INFER, content=b"a"))
            await here.echo.entered.wait()
            refused = await here.client.get("/v2")
            health = asyncio.create_task(here.client.get("/v2/health/ready"))
            while len(here.stack.under_way) < 2:
                await asyncio.sleep(0.01)
            here.echo.may.set()
            told = await asyncio.gather(first, health)
        assert refused.status_code == 503
        assert [one.status_code for one in told] == [200, 200]

    asyncio.run(run())


def test_what_takes_too_long_is_ended_and_said():
    async def run():
        async with world(limits=Limits(request_s=0.2)) as here:
            here.echo.may.clear()
            by_server = await here.client.post(INFER)
            by_caller = await here.client.post(INFER, headers={"request-timeout": "0.05"})
            here.echo.may.set()
            after = await here.client.post(INFER, headers={"request-timeout": "0.5"})
            wrong = [await here.client.post(INFER, headers={"request-timeout": t}) for t in ("x", "-1", "nan", "0")]
        assert (by_server.status_code, by_caller.status_code, after.status_code) == (504, 504, 200)
        assert [answer.status_code for answer in wrong] == [400] * 4

    asyncio.run(run())


def test_readiness_is_refused_while_traffic_is_not_wanted_and_requests_are_answered():
    async def run():
        async with world() as here:
            assert (await here.client.get("/v2/health/ready")).status_code == 200
            here.traffic.drain()
            paths = ("/v2/health/ready", "/health/ready", "/ping", MODEL + "/ready", MODEL + "/versions/1/ready")
            ready = [await here.client.get(path) for path in paths]
            live = [await here.client.get(path) for path in ("/v2/health/live", MODEL)]
            answered = await here.client.post(INFER, content=b"{}")
        assert [answer.status_code for answer in ready] == [503] * 5
        assert [answer.status_code for answer in live] == [200] * 2
        assert (answered.status_code, answered.content) == (200, b"{}")
        assert answered.headers["connection"] == "close"

    asyncio.run(run())


def test_requests_are_counted_by_labels_that_nobody_can_make_up():
    async def run():
        async with world() as here:
            for path in ("pumps", "a-made-up-name", "another"):
                await here.client.post(f"/v2/models/{path}/infer")
            await here.client.get("/made/up")
            samples = here.samples()
        route = 'route="/v2/models/{model}/infer"'
        assert f'shoal_request_seconds_count{{fleet="pumps",{route},status="200"}} 3.0' in samples
        assert 'shoal_request_seconds_count{fleet="",route="(none)",status="404"} 1.0' in samples
        assert "made" not in samples

    asyncio.run(run())


def test_the_access_log_has_a_line_per_request_and_always_the_failures():
    async def run():
        async def door(scope, receive, send):
            raise RuntimeError("oh")

        async with world(access_log=1.0) as here:
            await here.client.post(INFER, headers={"x-request-id": "one"})
            await asyncio.sleep(0.3)
            line = json.loads(os.read(here.logged, 65536))
        async with world({"v2": door}) as here:
            await here.client.post(INFER, headers={"x-request-id": "two"})
            await asyncio.sleep(0.3)
            failure = json.loads(os.read(here.logged, 65536))
        assert (line["request_id"], line["status"], line["path"], line["fleet"]) == ("one", 200, INFER, "pumps")
        assert (failure["request_id"], failure["status"], failure["level"]) == ("two", 500, "error")

    asyncio.run(run())
