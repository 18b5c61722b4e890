import asyncio

from stack_world import world

from shoal.telemetry.traces import Tracer
from tests.collectors import facts

INFER = "/v2/models/pumps/infer"


def test_a_request_continues_its_callers_trace(collector):
    endpoint, taken = collector
    tracer = Tracer(endpoint)

    async def run():
        async with world(tracer=tracer) as here:
            trace = "0af7651916cd43dd8448eb211c80319c"
            parent = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "x-request-id": "one"}
            await here.client.post(INFER, headers=parent)
            await here.client.post(INFER, headers={"traceparent": "nonsense"})
            await here.client.get("/made/up")

    asyncio.run(run())
    tracer.close()
    first, second, third = taken
    assert first.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert first.parent_span_id.hex() == "b7ad6b7169203331"
    assert first.name == "POST /v2/models/{model}/infer"
    assert facts(first)["shoal.request_id"] == "one"
    assert facts(first)["shoal.fleet"] == "pumps"
    assert facts(first)["http.response.status_code"] == 200
    assert second.parent_span_id == b""
    assert (third.name, facts(third)["http.response.status_code"]) == ("GET", 404)


def test_a_collector_that_is_not_there_costs_no_request():
    tracer = Tracer("http://127.0.0.1:9/v1/traces")

    async def run():
        async with world(tracer=tracer) as here:
            assert (await here.client.post(INFER)).status_code == 200

    asyncio.run(run())
    tracer.close()
