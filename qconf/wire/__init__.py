"""The wire format, shared by server and client.

Replies are columnar: one list per quantity, one entry per token. Every per-token entry at index ``i`` describes the
distribution that *predicted* token ``i``, so the first entry of a sequence is ``None``: nothing predicts it.
All logarithms are natural; log-probabilities, entropies and divergences are in nats.
"""

from qconf.wire.comparison import (
    BatchReply,
    Choice,
    Comparison,
    Continuation,
    ContinuationModel,
    ErrorReply,
    PairScores,
    Timing,
    Usage,
)
from qconf.wire.fields import (
    EXCERPT,
    MAX_BATCH,
    MAX_CONTINUATIONS,
    MAX_DETOKENIZED,
    MAX_MESSAGES,
    MAX_TOKENS,
    MAX_TOP_LOGPROBS,
    VARIANT_NAME,
    Both,
    ErrorDetail,
    Reply,
    Request,
    Role,
    Text,
    TextOrIds,
    TokenIds,
    invalid,
    problem,
)
from qconf.wire.generation import Fork, GeneratedToken, Generation, Generations
from qconf.wire.models import DetokenizeReply, ModelInfo, ModelList, ModelSize, ServerInfo, TokenizeReply, TokenizerInfo
from qconf.wire.requests import GENERATING, BatchRequest, CompareRequest, DetokenizeRequest, Message, TokenizeRequest
from qconf.wire.scores import ModelTokens, Summary, TokenComparison, TopTokens

__all__ = [
    "EXCERPT",
    "GENERATING",
    "MAX_BATCH",
    "MAX_CONTINUATIONS",
    "MAX_DETOKENIZED",
    "MAX_MESSAGES",
    "MAX_TOKENS",
    "MAX_TOP_LOGPROBS",
    "VARIANT_NAME",
    "BatchReply",
    "BatchRequest",
    "Both",
    "Choice",
    "CompareRequest",
    "Comparison",
    "Continuation",
    "ContinuationModel",
    "DetokenizeReply",
    "DetokenizeRequest",
    "ErrorDetail",
    "ErrorReply",
    "Fork",
    "GeneratedToken",
    "Generation",
    "Generations",
    "Message",
    "ModelInfo",
    "ModelList",
    "ModelSize",
    "ModelTokens",
    "PairScores",
    "Reply",
    "Request",
    "Role",
    "ServerInfo",
    "Summary",
    "Text",
    "TextOrIds",
    "Timing",
    "TokenComparison",
    "TokenIds",
    "TokenizeReply",
    "TokenizeRequest",
    "TokenizerInfo",
    "TopTokens",
    "Usage",
    "invalid",
    "problem",
]
