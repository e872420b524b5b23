"""Traces, for whoever collects them: spans go to the OpenTelemetry collector that the environment names."""

import contextlib
import os
from collections.abc import Iterator

from opentelemetry import trace

from qconf import __version__

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def tracing_is_on() -> bool:
    """Return whether the environment names a collector."""
    return any(os.environ.get(name) for name in ENDPOINTS)


@contextlib.contextmanager
def tracing(service: str) -> Iterator[None]:
    """Export spans while the context lasts, if the environment names a collector; at its end, send what is left.

    OpenTelemetry's other variables hold, too: OTEL_SERVICE_NAME instead of ``service``, OTEL_TRACES_SAMPLER, headers.
    """
    if not tracing_is_on():
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ.setdefault("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
