"""A server's numbers compared with transformers' for each way of running the engine on a GPU."""

import os
import re
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.cases import Case, NotAvailable, Record, Wrong, last_lines, reason
from benchmarks.random_pair import RandomPair
from benchmarks.references import Columns, Reference, in_process, joined, judged, references
from benchmarks.throughput import find_pair
from client import Client
from demo.local_server import ServerDidNotStart, running_server
from qconf.demo import PAIR
from qconf.wire import Comparison, ErrorDetail, TokenComparison

DEMO = "demo"
DIVERGENCES = ("kl", "reverse_kl", "js", "total_variation")
TAIL = 45
"""Tokens at the end of the longest sequence that are also scored after the others are cached. The others do not fill a
whole number of the cache's blocks: otherwise the cache would hold the row that predicts the first token of the tail."""
MARLIN = "MarlinLinearKernel"
BEFORE_MARLIN = "CutlassW4A8LinearKernel,MacheteLinearKernel"
"""Kernels that vLLM tries before Marlin."""
SHORT_STEPS = ("--max-num-batched-tokens", "256", "--max-num-seqs", "64")

Find = Callable[[str], tuple[RandomPair, list[Reference]]]
"""A pair by name, with its references."""


@dataclass(frozen=True)
class Setting:
    """A way of running the engine. Without a kernel, vLLM chooses."""

    pair: str
    dtype: str
    runner: str
    kernel: str | None
    eager: bool
    short_steps: bool = False

    def __str__(self) -> str:
        kernel = "default kernel" if self.kernel is None else self.kernel
        words = [self.pair, self.dtype, f"runner {self.runner}", kernel, "eager" if self.eager else "compiled"]
        return ", ".join([*words, *(["prompts in chunks"] if self.short_steps else [])])

    @property
    def arguments(self) -> list[str]:
        """Arguments of the server. Only at this log level does vLLM report its kernels and its runner."""
        eager = "--enforce-eager" if self.eager else "--no-enforce-eager"
        return ["--dtype", self.dtype, eager, "--log-level", "INFO", *(SHORT_STEPS if self.short_steps else ())]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for vLLM."""
        disabled = {} if self.kernel is None else {"VLLM_DISABLED_KERNELS": BEFORE_MARLIN}
        return {"VLLM_USE_V2_MODEL_RUNNER": str(int(self.runner == "V2"))} | disabled


def correctness_cases(size: str, vocabulary: int, folder: Path, arguments: list[str], rehearse: bool) -> list[Case]:
    """Return all cases, the most important first; a rehearsal has one of every kind."""
    grid = settings(size)
    default = grid[0]
    alone = [default, Setting(size, "bfloat16", "V1", None, True)]
    chunked = [Setting(size, "float16", runner, None, True, short_steps=True) for runner in ("V2", "V1")]

    @cache
    def find(name: str) -> tuple[RandomPair, list[Reference]]:
        demo = RandomPair(PAIR / "base", PAIR / "quantized")
        named = Namespace(pair=folder / name, size=size, vocabulary=vocabulary)
        pair = demo if name == DEMO else in_process(find_pair, named, folder)
        return pair, in_process(references, pair, vocabulary)

    def against(setting: Setting) -> Case:
        return Case(str(setting), lambda record: check(setting, find, arguments, record))

    def beside_itself(setting: Setting) -> Case:
        return Case(f"beside itself, {setting}", lambda record: check_itself(setting, find, arguments, record))

    if rehearse:  # one that needs a GPU's runner, one that needs its kernel, one for any machine
        return [*map(against, (default, grid[3], grid[7])), beside_itself(alone[1])]
    first = [against(default), beside_itself(default), *map(against, grid[1:8]), *map(against, chunked)]
    return [*first, beside_itself(alone[1]), *map(against, grid[8:])]


def settings(size: str) -> list[Setting]:
    """Return all combinations, the default of a GPU first.

    Any two values of two factors occur together twice in the first eight (an orthogonal array), so that a run which is
    cut short has covered every one.
    """
    codes = list(product((0, 1), repeat=5))
    codes.sort(key=lambda code: (code[3], code[4]) != (code[0] ^ code[1], code[0] ^ code[2]))
    return [
        Setting((size, DEMO)[a], ("float16", "bfloat16")[b], ("V2", "V1")[c], (None, MARLIN)[d], bool(e))
        for a, b, c, d, e in codes
    ]


def check(setting: Setting, find: Find, arguments: list[str], record: Record) -> str:
    """Score the longest sequence's end with the rest cached; then all sequences alone, again, and in a batch."""
    pair, wanted = find(setting.pair)
    context, end = wanted[-1].ids[:-TAIL], wanted[-1].ids[-TAIL:]
    with serving(setting, pair, arguments, record) as client:
        client.compare(prompt=context, detail="summary")
        tail = client.compare(prompt=context, continuations=[end], score_prompt=False)
        alone = [scores_of(client.compare(prompt=each.ids)) for each in wanted]
        again = [scores_of(client.compare(prompt=each.ids)) for each in wanted]
        batch = client.compare_batch([{"prompt": each.ids} for each in wanted])
    whole = zip([*alone, *map(scores_of, batch)], wanted * 2, strict=True)
    parts = [(scores, each, len(each.ids) - 1) for scores, each in whole] + [(scores_of(tail), wanted[-1], TAIL)]
    columns = [(numbers(scores, count), *each.last(count, setting.dtype)) for scores, each, count in parts]
    got, want, allowed, peer = map(joined, zip(*columns, strict=True))
    record["positions"] = len(want["kl"])
    record["cached_tokens"] = len(context) + TAIL - tail.usage.computed_tokens
    record["columns"], problems = judged(got, want, allowed, peer)
    if not record["kernels"]:
        problems.append("vLLM did not log which kernel it uses")
    if record["cached_tokens"] == 0:
        problems.append("nothing came from the prefix cache")
    if again != alone:
        problems.append("the same request got different numbers the second time")
    if problems:
        raise Wrong("; ".join(problems))
    errors = ", ".join(f"{name} {record['columns'][name]['max']:.2g}" for name in ("quantized_logprob", "kl"))
    return f"off by at most: {errors}; {', '.join(record['kernels'])}"


def check_itself(setting: Setting, find: Find, arguments: list[str], record: Record) -> str:
    """Check that the base compared with itself diverges by exactly 0."""
    pair, wanted = find(setting.pair)
    itself = RandomPair(pair.base, pair.base)
    with serving(setting, itself, [*arguments, "--allow-unquantized"], record) as client:
        parts = [numbers(scores_of(client.compare(prompt=each.ids)), len(each.ids) - 1) for each in wanted]
    got = joined(parts)
    zero = [*(got[name] for name in DIVERGENCES)]
    zero += [got[f"base_{name}"] - got[f"quantized_{name}"] for name in ("logprob", "entropy")]
    record["largest"] = float(np.abs(zero).max())
    if record["largest"] != 0:  # also true of NaN
        raise Wrong(f"the base compared with itself differs by {record['largest']:.2g}, expected exactly 0")
    return "exactly 0"


@contextmanager
def serving(setting: Setting, pair: RandomPair, arguments: list[str], record: Record) -> Iterator[Client]:
    """Run a server for the setting and yield a client; NotAvailable where vLLM runs another way."""
    command = ["--model", str(pair.base), "--quantized", str(pair.quantized), *setting.arguments, *arguments]
    try:
        with patch.dict(os.environ, setting.environment), running_server(*command) as server:
            record |= used(server.log.read_text(encoding="utf-8", errors="replace"))
            if record["runner"] != setting.runner:
                raise NotAvailable(f"vLLM uses model runner {record['runner']}")
            if setting.kernel and record["kernels"] != [setting.kernel]:
                raise NotAvailable(f"vLLM uses {', '.join(record['kernels'])}")
            try:
                with Client(server.url, timeout=600) as client:
                    yield client
            except Exception:  # the log has the reason why an engine died, and is deleted with the server
                record["log"] = last_lines(server.log.read_text(encoding="utf-8", errors="replace"))
                raise
    except ServerDidNotStart as error:
        if not torch.cuda.is_available() and "Model Runner V2" in (why := reason(error)):
            raise NotAvailable(why) from error
        raise


def used(log: str) -> Record:
    """Return the runner, kernels, memory and warnings that the server's log reports."""
    return {
        "runner": "V2" if "Using V2 Model Runner" in log else "V1",
        "kernels": sorted(set(re.findall(r"Using (\w+) for (?:mixed-precision linear|AutoGPTQLinearMethod)", log))),
        "memory": re.findall(r"(?:Model loading took|Available KV cache memory:) .*", log),
        "warnings": re.findall(r"^qconf: .*", log, re.MULTILINE),
    }


def scores_of(reply: Comparison | ErrorDetail) -> TokenComparison:
    """Return the columns per token of a reply's only sequence."""
    if isinstance(reply, ErrorDetail):
        raise Wrong(reply.message)
    scores = reply.prompt if reply.continuations is None else reply.continuations[0].scores
    if scores is None:
        raise Wrong("the reply has no columns")
    return scores


def numbers(scores: TokenComparison, count: int) -> Columns:
    """Return the last entries of each column, with NaN for null or missing values."""
    columns = {
        f"{role}_{name}": getattr(getattr(scores, role), f"{name}s" if name == "logprob" else name)
        for role in ("base", "quantized")
        for name in ("logprob", "entropy")
    }
    columns |= {name: getattr(scores, name) for name in DIVERGENCES}
    return {name: np.array([*[None] * count, *column][-count:], np.float64) for name, column in columns.items()}
