"""What can go wrong, as exceptions: server/api/app.py answers requests with them, server/__main__.py ends with them."""

from qconf.wire import INVALID_REQUEST, ErrorDetail


class StartError(Exception):
    """The pair cannot be served. The message is one sentence for the operator; the process exits with code 2."""


class RequestError(Exception):
    """A request that cannot be answered: an HTTP status and what the client is told."""

    status = 500
    type = "internal_error"

    def __init__(self, message: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.detail = ErrorDetail(type=self.type, message=message, param=param)
        self.retry_after = retry_after


class InvalidRequest(RequestError):
    """The client asked for something that cannot be; ``param`` names the field."""

    status = 400
    type = INVALID_REQUEST


class TooLarge(RequestError):
    """The body is larger than the server accepts."""

    status = 413
    type = "request_too_large"


class Overloaded(RequestError):
    """Too much work is in flight; the client should come back after ``retry_after`` seconds."""

    status = 429
    type = "overloaded"


class Unavailable(RequestError):
    """The engine is dead or the server is shutting down."""

    status = 503
    type = "unavailable"


class NotFinite(RequestError):
    """A model produced NaN or infinity where a number was due."""

    type = "not_finite"
