"""Log lines of the server: what is reported goes to standard output, warnings and errors to standard error."""

import logging
import sys
from typing import TextIO


class _Line(logging.Formatter):
    """Plain text; warnings and errors say where they come from."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if record.levelno < logging.WARNING else f"qconf-server: {record.levelname.lower()}: {line}"


def set_up_logs(level: str) -> None:
    """Log this package from INFO on, and everything else from ``level`` on."""
    out, err = _handler(sys.stdout), _handler(sys.stderr)
    out.addFilter(lambda record: record.levelno < logging.WARNING)
    err.setLevel(logging.WARNING)
    logging.basicConfig(level=level, handlers=[out, err], force=True)
    logging.getLogger("server").setLevel(min(logging.INFO, logging.getLevelNamesMapping()[level]))


def _handler(stream: TextIO) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Line())
    return handler
