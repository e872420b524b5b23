"""Prometheus metrics of the service itself: traffic, latency, refusals."""

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qconf import __version__
from qconf.error_types import STATUS
from qconf.wire import ModelList, Timing
from server.engine.twin.rows import Rows
from server.logs import ACCESS
from server.monitoring.recent import RecentRequests

access = logging.getLogger(ACCESS)
LATENCY_BOUNDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
"""From a cached request on a GPU to a long prompt on a CPU."""
CLIENT_CLOSED_REQUEST = 499
"""Status, by nginx's convention, of a request whose client left before the answer."""


UNMATCHED = "unmatched"
ERROR = "qconf.error"
PRINCIPAL = "qconf.principal"
"""Keys of a request's scope: the type of its error, whose API key it has."""


class ServiceMetrics:
    """The metrics of the service. Labels take values from lists that clients cannot add to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.recent = RecentRequests()
        self.requests = Counter(
            "qconf_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.aborted = Counter("qconf_aborted_requests", "Requests whose client left first.", registry=registry)
        self.rejections = Counter(
            "qconf_rejections", "Requests refused or failed, by error type.", ["reason"], registry=registry
        )
        for reason in STATUS:
            self.rejections.labels(reason)
        self.principal_requests = Counter(
            "qconf_principal_requests", "Requests by API key and status.", ["principal", "status"], registry=registry
        )
        self.principal_tokens = Counter(
            "qconf_principal_tokens", "Tokens that were asked for, by API key.", ["principal"], registry=registry
        )
        self._tokens = Counter(
            "qconf_tokens",
            "Tokens: scored; computed, which ran through both models; cached, whose prefix was in the cache; "
            "generated.",
            ["kind"],
            registry=registry,
        )

        def latency(name: str, documentation: str) -> Histogram:
            return Histogram(name, documentation, ["route"], buckets=LATENCY_BOUNDS, registry=registry)

        self.duration = latency("qconf_request_duration_seconds", "From a request's arrival to the end of its answer.")
        self._queue = latency("qconf_request_queue_seconds", "Per comparison: wait for the engine to begin with it.")
        self._engine = latency("qconf_request_engine_seconds", "Per comparison: from then until it is scored.")

        self.requests_in_flight = Gauge("qconf_requests_in_flight", "Requests being answered.", registry=registry)
        self.sequences_in_flight = Gauge("qconf_sequences_in_flight", "Sequences admitted.", registry=registry)
        self.sequences_limit = Gauge(
            "qconf_sequences_limit", "Sequences in flight beyond which requests are refused.", registry=registry
        )
        self._tokens_in_flight = Gauge("qconf_tokens_in_flight", "Tokens in the engine.", registry=registry)
        self.engine_up = Gauge("qconf_engine_up", "Whether the engine's processes run.", registry=registry)
        self._model = Gauge(
            "qconf_model_info",
            "The base and its quantized variants.",
            ["model", "root", "revision", "digest", "architecture", "dtype", "quantization"],
            registry=registry,
        )
        self._build = Gauge("qconf_build_info", "Versions.", ["version", "vllm", "device"], registry=registry)

    def describe(self, models: ModelList) -> None:
        """Describe what is served, and by what."""
        for model in models.data:
            facts = (model.root, model.revision, model.digest, model.architecture, model.dtype, model.quantization)
            self._model.labels(model.id, *(fact or "" for fact in facts)).set(1)
        self._build.labels(__version__, models.server.vllm, models.server.device).set(1)

    def timed(self, route: str, timing: Timing) -> None:
        """Add the parts of a comparison's time."""
        self._queue.labels(route).observe(timing.queue_ms / 1e3)
        self._engine.labels(route).observe(timing.engine_ms / 1e3)

    @contextmanager
    def in_engine(self, tokens: int) -> Iterator[None]:
        """Count tokens as in the engine."""
        self._tokens_in_flight.inc(tokens)
        try:
            yield
        finally:
            self._tokens_in_flight.dec(tokens)

    def generated(self) -> None:
        """Add a token that was generated."""
        self._tokens.labels("generated").inc()

    def scored(self, rows: Rows) -> None:
        """Add the tokens of a sequence that was scored."""
        self._tokens.labels("scored").inc(len(rows.values))
        self._tokens.labels("computed").inc(rows.computed_tokens)
        self._tokens.labels("cached").inc(rows.cached_tokens)


def route_of(scope: Scope) -> str:
    """Return the template of the request's route, so that labels stay bounded."""
    return getattr(scope.get("route"), "path", UNMATCHED)


def note_error(scope: Scope, type_: str) -> None:
    """Let the request be counted, logged and traced under the type of the error that it is answered with."""
    scope[ERROR] = type_
    trace.get_current_span().set_attribute("error.type", type_)


class MetricsMiddleware:
    """Counts and times every request, and logs a line for it: neither what was asked nor who asked."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics, routes: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = CLIENT_CLOSED_REQUEST
        started = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            self._count(scope, status, time.perf_counter() - started)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = route_of(scope)
        # Requests that are refused early have not come to their route.
        if route == UNMATCHED and scope["path"] in self._routes:
            route = scope["path"]
        metrics = self._metrics
        metrics.requests.labels(route, str(status)).inc()
        metrics.duration.labels(route).observe(seconds)
        metrics.recent.add(route, status, seconds)
        if (principal := scope.get(PRINCIPAL)) is not None:
            metrics.principal_requests.labels(principal, str(status)).inc()
        error = scope.get(ERROR)
        if status == CLIENT_CLOSED_REQUEST:
            metrics.aborted.inc()
        elif error is not None:
            metrics.rejections.labels(error).inc()
        fields = {"method": scope["method"], "route": route, "status": status, "ms": round(1e3 * seconds, 2)}
        if error is not None:
            fields["error"] = error
        access.info("%(method)s %(route)s %(status)d %(ms).2f ms", fields, extra=fields)
