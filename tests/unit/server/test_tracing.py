import asyncio
import http.server
import threading

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from stack_world import world

from shoal.telemetry.traces import Tracer

INFER = "/v2/models/pumps/infer"


@pytest.fixture
def collector():
    """A server that takes spans as a collector does."""
    taken = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            request = ExportTraceServiceRequest.FromString(body)
            taken.extend(span for r in request.resource_spans for s in r.scope_spans for span in s.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", taken
        server.shutdown()
        thread.join()


def facts(span):
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


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
