"""What is served, and tokens: replies that are no comparisons."""

from typing import Literal

from qconf.wire.fields import Reply


class ModelSize(Reply):
    """What a model costs: bytes of all its tensors, and their bits for each weight of the base.

    ``quantized_bits`` are stored for a quantized value, ``quantized_entropy`` are needed: the Shannon entropy of the
    values' distribution. ``compression_ratio`` is of the quantized values (without any: the weights) and zlib, as they
    are stored. The last two are of a sample of 16 MiB.
    """

    bytes: int
    bits_per_weight: float
    quantized_bits: int | None
    quantized_entropy: float | None
    compression_ratio: float


class ModelInfo(Reply):
    """One model of those served.

    ``id`` is "base", or the name of a quantized variant, "quantized" by default; ``root`` is its hub name, or the end
    of its folder's path, ``digest`` a SHA-256 over its configuration and weight files.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "qconf"
    root: str
    revision: str | None
    digest: str
    architecture: str
    dtype: str
    quantization: str | None
    max_model_len: int
    size: ModelSize | None = None


class ServerInfo(Reply):
    """What answered: versions and device, for run manifests."""

    version: str
    vllm: str
    device: str


class ModelList(Reply):
    """Reply of ``/v1/models``: the base, then its quantized variants, of which there is at least one."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]
    server: ServerInfo


class TokenizeReply(Reply):
    """Token ids of a text or chat, and with ``return_token_strs`` each token's own text.

    Where a continuation was sent, ``continuation`` has its ids, and ``tokens`` are those before it.
    """

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None
    continuation: list[int] | None = None


class DetokenizeReply(Reply):
    """Text of token ids."""

    prompt: str


class TokenizerInfo(Reply):
    """What a client must know to build prompts of its own.

    The base model ends its texts with one of ``eos_token_ids``.
    """

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    eos_token_ids: list[int]
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None
