"""The client's part of a trace: a span for each attempt, whose context goes to the server in ``traceparent``."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from opentelemetry import propagate, trace

from qconf import __version__

_tracer = trace.get_tracer("qconf.client", __version__)


@contextmanager
def traced(request: httpx.Request) -> Iterator[trace.Span]:
    """Wrap the sending of a request. Without OpenTelemetry's SDK, set up by the program, nothing is sent or recorded.

    Attributes have the names of OpenTelemetry's semantic conventions for HTTP.
    """
    attributes: dict[str, str | int] = {
        "http.request.method": request.method,
        "server.address": request.url.host,
        "server.port": request.url.port or {"http": 80, "https": 443}[request.url.scheme],
        "url.full": str(request.url),
    }
    name = f"{request.method} {request.url.path}"
    with _tracer.start_as_current_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes) as span:
        propagate.inject(request.headers)
        yield span
