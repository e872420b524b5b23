"""Client of a qconf server: log-probabilities and divergences of a model and its quantized variants.

>>> from client import Client
>>> with Client("http://127.0.0.1:8000") as qconf:  # doctest: +SKIP
...     reply = qconf.compare(prompt="The sky is", continuations=[" blue", " green"], label=0)
...     print(reply.choice.flip, reply.summary.mean_kl)
"""

from client.api import AsyncClient, Client
from client.errors import (
    BadReply,
    ConnectionFailed,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    QconfError,
    QuotaExceeded,
    ServerError,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from qconf.wire import (
    Choice,
    CompareRequest,
    Comparison,
    Continuation,
    ErrorDetail,
    GeneratedToken,
    Message,
    ModelInfo,
    ModelList,
    PairScores,
    ServerInfo,
    Summary,
    TokenComparison,
    TokenizeReply,
    TokenizerInfo,
)

__all__ = [
    "AsyncClient",
    "BadReply",
    "Choice",
    "Client",
    "CompareRequest",
    "Comparison",
    "ConnectionFailed",
    "Continuation",
    "DeadlineExceeded",
    "ErrorDetail",
    "GeneratedToken",
    "InternalError",
    "InvalidRequest",
    "Message",
    "ModelInfo",
    "ModelList",
    "NotFound",
    "Overloaded",
    "PairScores",
    "QconfError",
    "QuotaExceeded",
    "ServerError",
    "ServerInfo",
    "Summary",
    "TimedOut",
    "TokenComparison",
    "TokenizeReply",
    "TokenizerInfo",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
]
