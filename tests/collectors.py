"""A collector of OpenTelemetry spans."""

import http.server
import threading

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@pytest.fixture
def collector(monkeypatch):
    """A server that takes spans as a collector does: its address, and what it has taken."""
    # One that is held up is no dead one.
    monkeypatch.setattr("shoal.telemetry.traces._TIMEOUT_S", 30.0)
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
    """What a span says, by name."""
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}
