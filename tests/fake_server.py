"""A stand-in for the server, in process: the wire format with made-up numbers, for tests of the client's own work."""

import json
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np
from pydantic import ValidationError

from qconf.float32 import to_base64
from qconf.wire import CompareRequest, Comparison

Reply = httpx.Response
Hook = Callable[[httpx.Request], Reply | None]


def model(name: str, quantization: str | None) -> dict[str, Any]:
    """Return a model as /v1/models lists it."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "qconf",
        "root": f"fake/{name}",
        "revision": None,
        "digest": f"digest of {name}",
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "quantization": quantization,
        "max_model_len": 512,
        "size": {
            "bytes": 2_000_000 if quantization is None else 700_000,
            "bits_per_weight": 16.0 if quantization is None else 5.6,
            "quantized_bits": None if quantization is None else 4,
            "quantized_entropy": None if quantization is None else 3.71,
            "compression_ratio": 1.31 if quantization is None else 1.07,
        },
    }


def models(variants: Sequence[str]) -> list[dict[str, Any]]:
    """Return the base and its variants."""
    return [model("base", None), *(model(name, "gptq") for name in variants)]


VARIANTS = ("quantized",)
MODELS = models(VARIANTS)
TOKENIZER = {
    "tokenizer_class": "Fake",
    "bos_token": None,
    "eos_token": "$",
    "eos_token_ids": [36],
    "pad_token": None,
    "unk_token": None,
    "chat_template": None,
}
SERVER = {"version": "0.1.0", "vllm": "0.32.0", "device": "cpu"}


class FakeServer:
    """A server that keeps the requests it gets. ``hook`` may answer in its place.

    A variant has the same numbers whatever others there are.
    """

    def __init__(self, hook: Hook | None = None, variants: Sequence[str] = VARIANTS) -> None:
        self.hook = hook
        self.variants = variants
        self.received: list[httpx.Request] = []

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> Reply:
        self.received.append(request)
        if self.hook and (reply := self.hook(request)) is not None:
            return reply
        match request.url.path:
            case "/v1/models":
                return httpx.Response(200, json={"object": "list", "data": models(self.variants), "server": SERVER})
            case "/ready":
                return httpx.Response(200, json={"status": "ready"})
            case "/tokenize":
                return httpx.Response(200, json=tokenized(json.loads(request.content)))
            case "/detokenize":
                text = "".join(map(chr, json.loads(request.content)["tokens"]))
                return httpx.Response(200, json={"prompt": text})
            case "/tokenizer_info":
                return httpx.Response(200, json=TOKENIZER)
            case "/compare":
                body = compare(json.loads(request.content), self.variants)
                return httpx.Response(400 if "error" in body else 200, json=body)
            case "/compare/batch":
                entries = json.loads(request.content)["requests"]
                results = [compare(entry, self.variants) for entry in entries]
                return httpx.Response(200, json={"object": "list", "results": results})
        return error(404, "no such route")

    def bodies(self, path: str) -> list[Any]:
        """Return the bodies that were posted to a path."""
        return [json.loads(request.content) for request in self.received if request.url.path == path]


def error(status: int, message: str, param: str | None = None, headers: dict[str, str] | None = None) -> Reply:
    body = {"error": {"type": "some_error", "message": message, "param": param}}
    return httpx.Response(status, json=body, headers=headers)


def tokens(text: str) -> list[int]:
    """Return a token per character."""
    return [ord(character) for character in text]


def tokenized(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the ids of a text, ids, or the texts of a chat; and of a continuation, where there is one."""
    prompt = "".join(each["content"] for each in fields["messages"]) if fields.get("messages") else fields["prompt"]
    ids = prompt if isinstance(prompt, list) else tokens(prompt)
    answer = fields.get("continuation")
    continuation = None if answer is None else tokens(answer)
    return {"count": len(ids), "max_model_len": 512, "tokens": ids, "continuation": continuation}


def compare(fields: dict[str, Any], variants: Sequence[str] = VARIANTS) -> dict[str, Any]:
    """Return a made-up comparison, the same for the same request."""
    try:
        request = CompareRequest.model_validate(fields)
    except ValidationError as exc:
        return {"error": {"type": "invalid_request", "message": str(exc)}}
    first, *others = (
        {"models": {"base": MODELS[0], "quantized": model(v, "gptq")}} | _scores(request, v) for v in variants
    )
    reply = first | {
        "id": "cmp-1",
        "created": 0,
        "variants": dict(zip(variants[1:], others, strict=True)),
        "usage": {"prompt_tokens": 9, "continuation_tokens": 3, "scored_tokens": 3, "computed_tokens": 12},
        "timing": {"tokenize_ms": 0.1, "queue_ms": 0.1, "engine_ms": 1.9, "total_ms": 2.2},
    }
    Comparison.model_validate(reply)
    return reply


def _scores(request: CompareRequest, variant: str) -> dict[str, Any]:
    texts = request.continuations or []
    base = [-1.0 - noise(f"{request.prompt}|{text}") * 5 for text in texts]
    quantized = [
        value - 0.5 + noise(f"{request.prompt}|{text}|{variant}") for value, text in zip(base, texts, strict=True)
    ]
    return {
        "continuations": [
            {
                "index": index,
                "text": str(text),
                "token_ids": text if isinstance(text, list) else list(range(index + 1)),
                "base": {"logprob": base[index], "confidence": share(base, index), "is_greedy": index == 0},
                "quantized": {"logprob": quantized[index], "confidence": share(quantized, index), "is_greedy": False},
                "summary": _summary(len(text) if isinstance(text, list) else index + 1, 0.01 * (index + 1)),
                "scores": _columns(text, variant) if request.detail == "tokens" and isinstance(text, list) else None,
                "expected_counts": _expected_counts(text) if request.expected_counts else None,
            }
            for index, text in enumerate(texts)
        ]
        or None,
        "summary": _summary(len(texts), 0.02),
        "generation": _generations(request, variant) if request.max_tokens else None,
    }


def _generations(request: CompareRequest, variant: str) -> dict[str, Any]:
    """Return made-up answers: the base's, and one that in half of the cases parts from it after the first letter."""
    base = "abcdefgh"[: 2 + int(6 * noise(f"{request.prompt}"))]
    quantized = base if noise(f"{request.prompt}|{variant}") < 0.5 else f"{base[0]}z"

    def answer(text: str, model: str) -> dict[str, Any]:
        kl = 0.01 * noise(f"{text}|{model}")
        ids = tokens(text)[: request.max_tokens]
        return {"text": text, "token_ids": ids, "finish_reason": "stop", "summary": _summary(len(ids), kl)}

    return {
        "base": answer(base, f"base beside {variant}"),
        "quantized": answer(quantized, variant),
        "fork": None,
        "common_prefix": len(base) if quantized == base else 1,
        "length_ratio": len(quantized) / len(base),
        "acceptance": 1 - noise(f"acceptance of {quantized}") / 10,
        "seed": request.seed,
    }


def noise(text: str) -> float:
    """Return a number in [0, 1) that looks random and is the same for the same text."""
    return zlib.crc32(text.encode()) / 2**32


def share(logprobs: list[float], index: int) -> float:
    return math.exp(logprobs[index]) / sum(math.exp(value) for value in logprobs)


def _columns(token_ids: list[int], variant: str) -> dict[str, Any]:
    def column(name: str) -> list[float]:
        return [noise(f"{name}{token_id}") for token_id in token_ids]

    def of_model(name: str) -> dict[str, Any]:
        logprobs = [-1 - value for value in column(name)]
        columns = {key: column(name + key) for key in ("entropy", "confidence")}
        return {"logprobs": logprobs, "argmax": token_ids, **columns}

    return {
        "tokens": [str(token_id) for token_id in token_ids],
        "token_ids": token_ids,
        "base": of_model("base"),
        "quantized": of_model(variant),
        "kl": column(f"kl of {variant}"),
        "reverse_kl": column(f"reverse_kl of {variant}"),
        "js": column(f"js of {variant}"),
        "total_variation": column(f"total_variation of {variant}"),
        "agree": [True] * len(token_ids),
    }


def _expected_counts(token_ids: str | list[int]) -> dict[str, str]:
    """Return counts that sum up to the number of tokens; the quantized model prefers "b" to "a", and "c" by chance."""
    base = np.full(128, 1 / 128)
    quantized = base.copy()
    shift = 0.004 + 0.0005 * noise(f"b{token_ids}")
    quantized[[ord("a"), ord("b")]] += (-shift, shift)
    by_chance = 0.004 * (noise(f"c{token_ids}") - 0.5)
    quantized[[ord("c"), ord("d")]] += (by_chance, -by_chance)
    return {
        "base": to_base64(len(token_ids) * base),
        "quantized": to_base64(len(token_ids) * quantized),
    }


def _summary(tokens: int, kl: float) -> dict[str, Any]:
    both = {"base": 1.0, "quantized": 1.1}
    return {
        "tokens": tokens,
        "mean_kl": kl,
        "max_kl": 2 * kl,
        "mean_reverse_kl": kl,
        "mean_js": kl / 4,
        "mean_total_variation": (kl / 2) ** 0.5,
        "agreement": 1.0,
        "perplexity": both,
        "mean_entropy": both,
        "mean_confidence": both,
    }
