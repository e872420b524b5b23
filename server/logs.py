"""Log lines of the server: what is reported goes to standard output, warnings and errors to standard error."""

import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, TextIO

from opentelemetry import trace
from pythonjsonlogger.json import JsonFormatter

ACCESS = "server.access"
"""Logger with a line for each request."""
REQUEST_ID: ContextVar[str] = ContextVar("request_id")
"""Id of the request that is being answered."""
Format = Literal["text", "json"]


class TextLine(logging.Formatter):
    """Plain text; warnings and errors say where they come from, and lines of a request name it."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if record.levelno >= logging.WARNING:
            line = f"qconf-server: {record.levelname.lower()}: {line}"
        return f"{line} [request {request_id}]" if (request_id := REQUEST_ID.get(None)) else line


class JsonLine(JsonFormatter):
    """One JSON object a line, with the ids of the request and of its trace."""

    def __init__(self) -> None:
        fields = ["levelname", "name", "message"]
        super().__init__(fields, rename_fields={"levelname": "level", "name": "logger"}, timestamp="time")

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        if request_id := REQUEST_ID.get(None):
            log_data["request_id"] = request_id
        if (context := trace.get_current_span().get_span_context()).is_valid:
            log_data["trace_id"] = trace.format_trace_id(context.trace_id)
            log_data["span_id"] = trace.format_span_id(context.span_id)


def set_up_logs(level: str, format_: Format) -> None:
    """Log this package from INFO on, and requests and everything else from ``level`` on."""
    out, err = _handler(sys.stdout, format_), _handler(sys.stderr, format_)
    out.addFilter(lambda record: record.levelno < logging.WARNING)
    err.setLevel(logging.WARNING)
    logging.basicConfig(level=level, handlers=[out, err], force=True)
    logging.getLogger("server").setLevel(min(logging.INFO, logging.getLevelNamesMapping()[level]))
    logging.getLogger(ACCESS).setLevel(level)


@contextlib.contextmanager
def vllm_logs(level: str, format_: Format) -> Iterator[None]:
    """Have all processes of vLLM log from ``level`` on, in this format, where the environment does not say otherwise.

    vLLM reads these variables when it is imported.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", level)
    with tempfile.TemporaryDirectory(prefix="qconf-") as folder:
        if format_ == "json":
            level = os.environ["VLLM_LOGGING_LEVEL"]
            file = Path(folder) / "vllm-logs.json"
            config = {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {"json": {"()": f"{__name__}.{JsonLine.__name__}"}},
                "handlers": {"json": {"class": "logging.StreamHandler", "formatter": "json"}},
                "loggers": {"vllm": {"handlers": ["json"], "level": level, "propagate": False}},
            }
            file.write_text(json.dumps(config), encoding="utf-8")
            os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(file))
        yield


def _handler(stream: TextIO, format_: Format) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextLine() if format_ == "text" else JsonLine())
    return handler
