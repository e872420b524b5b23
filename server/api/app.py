"""The HTTP application, put together from its routers."""

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import Route

from qconf import __version__
from qconf.tracing import tracing_is_on
from server.api import chat, compare, completions, operations, shadow, tools
from server.api.body_limit import BodyLimitMiddleware
from server.api.errors import add_error_handlers
from server.api.headers import HeadersMiddleware
from server.api.keys import Keys, KeysMiddleware
from server.api.operations_port import PROBES, OperationsPortMiddleware
from server.api.overload import OverloadMiddleware
from server.api.work import Serving
from server.monitoring.service_metrics import MetricsMiddleware
from server.page import routes as page

UNTRACED = "/health$,/ready$,/metrics$"
"""Routes that are asked every few seconds and say nothing of the work."""


def create_app(
    serving: Serving, max_body_bytes: int, keys: Keys | None = None, operations_port: int | None = None
) -> FastAPI:
    """Return the application that serves one pair, to those who have one of the keys if there are any."""
    # Its page of documentation needs no network; FastAPI's own loads its scripts from elsewhere.
    app = FastAPIOffline(
        redoc_url=None,
        # A redirect would go to whatever host the client names.
        redirect_slashes=False,
        title="qconf",
        version=__version__,
        summary="Compare a full-precision language model with its quantized twin.",
    )
    app.state.serving = serving
    for part in (compare, completions, chat, tools, shadow, operations, page):
        app.include_router(part.router)
    add_error_handlers(app)
    app.add_middleware(BodyLimitMiddleware, max_bytes=max_body_bytes)
    app.add_middleware(OverloadMiddleware, admission=serving.admission)
    if keys is not None:
        app.add_middleware(KeysMiddleware, keys=keys, open_paths={*PROBES, *page.FILES})
    if operations_port is not None:
        app.add_middleware(OperationsPortMiddleware, port=operations_port)
    routes = {route.path for route in app.routes if isinstance(route, Route)}
    app.add_middleware(MetricsMiddleware, metrics=serving.monitor.metrics, routes=routes)
    app.add_middleware(HeadersMiddleware)
    if tracing_is_on():
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(app, excluded_urls=UNTRACED, exclude_spans=["receive", "send"])
    return app
