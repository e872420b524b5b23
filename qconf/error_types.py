"""Types of errors on the wire. A reply names its type, so that one HTTP status can stand for several of them."""

from typing import Final

INVALID_REQUEST: Final = "invalid_request_error"
UNAUTHORIZED: Final = "authentication_error"
NOT_FOUND: Final = "not_found"
METHOD_NOT_ALLOWED: Final = "method_not_allowed"
TOO_SLOW: Final = "request_timeout"
TOO_LARGE: Final = "request_too_large"
HEAD_TOO_LARGE: Final = "request_head_too_large"
OVERLOADED: Final = "overloaded"
QUOTA_EXCEEDED: Final = "quota_exceeded"
INTERNAL: Final = "internal_error"
NOT_FINITE: Final = "not_finite"
UNAVAILABLE: Final = "unavailable"
DEADLINE_EXCEEDED: Final = "deadline_exceeded"

STATUS: Final = {
    INVALID_REQUEST: 400,
    UNAUTHORIZED: 401,
    NOT_FOUND: 404,
    METHOD_NOT_ALLOWED: 405,
    TOO_SLOW: 408,
    TOO_LARGE: 413,
    OVERLOADED: 429,
    QUOTA_EXCEEDED: 429,
    HEAD_TOO_LARGE: 431,
    INTERNAL: 500,
    NOT_FINITE: 500,
    UNAVAILABLE: 503,
    DEADLINE_EXCEEDED: 504,
}
"""The HTTP status of each type."""
