"""What can go wrong, as a tree.

QconfError
├── ConnectionFailed      no connection, or it broke
├── TimedOut              no reply in time
├── BadReply              a reply that is not what the wire format says
└── ServerError           the request was refused or failed
    ├── InvalidRequest    the request is wrong; also where that was seen before it was sent
    ├── Unauthorized      the API key is missing or wrong
    ├── NotFound          there is no such route
    ├── TooLarge          the body has too many bytes
    ├── Overloaded        the server has too much to do
    ├── QuotaExceeded     the API key's quota is used up
    ├── DeadlineExceeded  the server gave the request up
    ├── Unavailable       the server is starting, stopping or not there, or a proxy cannot reach it
    └── InternalError     the server failed

A reply's error type decides which of them is raised. A reply without one, as from a proxy, is told by its status.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from pydantic import ValidationError

from qconf import error_types
from qconf.wire import ErrorDetail, ErrorReply

EXCERPT = 200


class QconfError(Exception):
    """Base of everything this package raises on purpose."""


class ConnectionFailed(QconfError):
    """The server could not be reached, or the connection broke."""


class TimedOut(QconfError):
    """The server did not reply in time."""


class BadReply(QconfError):
    """The reply is not JSON, or not what the wire format says: something else may be listening there."""


class ServerError(QconfError):
    """The request was refused or failed.

    ``status`` is the HTTP status, ``type`` and ``param`` are the server's own (``param`` names the field at fault),
    ``retry_after`` the seconds after which the server asks to be tried again, ``request_id`` the request's name in the
    server's log.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str | None = None,  # noqa: A002 - the name it has on the wire
        param: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.param = param
        self.retry_after = retry_after
        self.request_id = request_id


class InvalidRequest(ServerError):
    """The request is wrong; ``status`` is None when that was seen before anything was sent."""


class Unauthorized(ServerError):
    """The API key is missing or wrong."""


class NotFound(ServerError):
    """The server has no such route: perhaps the base URL is wrong."""


class TooLarge(ServerError):
    """The request body is larger than the server takes."""


class Overloaded(ServerError):
    """The server has too much to do."""


class QuotaExceeded(ServerError):
    """The API key's quota of requests or tokens per minute is used up."""


class DeadlineExceeded(ServerError):
    """The request took longer than the server allows."""


class Unavailable(ServerError):
    """The server is starting, stopping or not there."""


class InternalError(ServerError):
    """The server failed."""


BY_TYPE: dict[str, type[ServerError]] = {
    error_types.INVALID_REQUEST: InvalidRequest,
    error_types.UNAUTHORIZED: Unauthorized,
    error_types.NOT_FOUND: NotFound,
    error_types.METHOD_NOT_ALLOWED: NotFound,
    error_types.TOO_SLOW: Unavailable,
    error_types.TOO_LARGE: TooLarge,
    error_types.HEAD_TOO_LARGE: TooLarge,
    error_types.OVERLOADED: Overloaded,
    error_types.QUOTA_EXCEEDED: QuotaExceeded,
    error_types.INTERNAL: InternalError,
    error_types.NOT_FINITE: InternalError,
    error_types.UNAVAILABLE: Unavailable,
    error_types.DEADLINE_EXCEEDED: DeadlineExceeded,
}
BY_STATUS: dict[int, type[ServerError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    404: NotFound,
    413: TooLarge,
    429: Overloaded,
    500: InternalError,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
FOREIGN = "unknown"
"""Type of a reply that is not of the wire format's shape."""
FOREIGN_STATUS = BY_STATUS | {500: Unavailable}
"""The server's own errors have the shape; Ray Serve's proxy, for one, answers 500 when it has lost the replica."""


@contextmanager
def translated(url: object) -> Iterator[None]:
    """Translate httpx's errors; no other place does."""
    try:
        yield
    except httpx.TimeoutException as exc:
        raise TimedOut(f"{url} did not reply in time ({type(exc).__name__})") from exc
    except httpx.TransportError as exc:
        raise ConnectionFailed(f"cannot reach {url}: {exc or type(exc).__name__}") from exc
    except httpx.RequestError as exc:
        raise BadReply(f"{url} sent a reply that cannot be read: {exc}") from exc


def raise_for_status(response: httpx.Response) -> None:
    """Turn every status but success into the error of the tree that it stands for."""
    if response.is_success:
        return
    status = response.status_code
    detail = _detail(response)
    by_status = FOREIGN_STATUS if detail.type == FOREIGN else BY_STATUS
    raise BY_TYPE.get(detail.type, by_status.get(status, ServerError))(
        detail.message,
        status=status,
        type=detail.type,
        param=detail.param,
        retry_after=parse_retry_after(response.headers.get("retry-after"), datetime.now(UTC)),
        request_id=response.headers.get("x-request-id"),
    )


def _detail(response: httpx.Response) -> ErrorDetail:
    try:
        return ErrorReply.model_validate_json(response.content).error
    except ValidationError:
        # A proxy, or something that is not a qconf server at all.
        text = " ".join(response.text.split())[:EXCERPT]
        where = f"{response.request.url} answered {response.status_code} {response.reason_phrase}"
        return ErrorDetail(type=FOREIGN, message=f"{where}: {text}" if text else where)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds to wait, from either form of the header: seconds or an HTTP date. None for any other value."""
    if value is None:
        return None
    try:
        seconds = float(value) if value.strip().isdigit() else (parsedate_to_datetime(value) - now).total_seconds()
    except (ValueError, TypeError):  # TypeError: a date without a time zone
        return None
    return max(0.0, seconds)
