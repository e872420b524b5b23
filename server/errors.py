"""What can go wrong, as exceptions: ``server/api/app.py`` answers requests with them, ``server/serve.py`` exits."""

from qconf import error_types
from qconf.wire import ErrorDetail


class StartError(Exception):
    """The pair cannot be served. The message is one sentence for the operator; the process exits with code 2."""


class RequestError(Exception):
    """A request that cannot be answered. ``type`` is one of ``qconf.error_types`` and decides the HTTP status."""

    type: str = error_types.INTERNAL

    def __init__(self, message: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.detail = ErrorDetail(type=self.type, message=message, param=param)
        self.retry_after = retry_after


class InvalidRequest(RequestError):
    """The client asked for something that cannot be; ``param`` names the field."""

    type = error_types.INVALID_REQUEST


class Unauthorized(RequestError):
    """The request has no valid API key."""

    type = error_types.UNAUTHORIZED


class NotFound(RequestError):
    """There is no such route, at least not on this port."""

    type = error_types.NOT_FOUND


class TooSlow(RequestError):
    """The client took too long to send the request."""

    type = error_types.TOO_SLOW


class TooLarge(RequestError):
    """The body is larger than the server accepts."""

    type = error_types.TOO_LARGE


class Overloaded(RequestError):
    """Too much work is in flight; the client should come back after ``retry_after`` seconds."""

    type = error_types.OVERLOADED


class QuotaExceeded(RequestError):
    """The API key's quota is used up; there is some again after ``retry_after`` seconds."""

    type = error_types.QUOTA_EXCEEDED


class Unavailable(RequestError):
    """The engine is dead or the server is shutting down."""

    type = error_types.UNAVAILABLE


class DeadlineExceeded(RequestError):
    """The request took longer than the server allows; its work was cancelled."""

    type = error_types.DEADLINE_EXCEEDED


class NotFinite(RequestError):
    """A model produced NaN or infinity where a number was due."""

    type = error_types.NOT_FINITE
