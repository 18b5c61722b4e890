"""Traces by OpenTelemetry: a span per request, sent in the background; without an endpoint nothing is imported."""

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_TIMEOUT_S = 3.0

Attributes = Mapping[str, str | int | float | bool]


class Tracer:
    """Makes spans and sends them, in batches, by OTLP over HTTP; what cannot be sent is dropped.

    Parameters
    ----------
    endpoint : str
        URL of a collector, e.g. ``http://localhost:4318/v1/traces``.
    service : str
        What the spans say they come from.
    """

    def __init__(self, endpoint: str, *, service: str = "shoal") -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._provider = TracerProvider(resource=Resource.create({"service.name": service}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=_TIMEOUT_S)))
        self._tracer = self._provider.get_tracer("shoal")

    def span(self, name: str, *, traceparent: str | None) -> "Traced":
        """Begin a span of a request that was received.

        Parameters
        ----------
        name : str
            Of a closed set.
        traceparent : str or None
            What the caller sent (W3C Trace Context); the span continues its trace.
        """
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {"traceparent": traceparent} if traceparent else {}
        context = TraceContextTextMapPropagator().extract(carrier)
        return Traced(self._tracer.start_span(name, context=context, kind=SpanKind.SERVER))

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


class Traced:
    """A span that ends with its block."""

    def __init__(self, span: "Span") -> None:
        self._span = span

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._span.end()

    def tell(self, attributes: Attributes) -> None:
        """Say what is known of the request."""
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        """Give it a better name."""
        self._span.update_name(name)

    def fail(self) -> None:
        """Mark it as failed on our side."""
        from opentelemetry.trace import StatusCode

        self._span.set_status(StatusCode.ERROR)
