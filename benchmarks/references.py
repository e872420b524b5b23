"""Reference values: transformers in float32 on the base, and on the twin's weights by plain arithmetic.

The tolerances of tests/oracle.py (0.03 in bfloat16, 0.005 in float16 on log-probabilities) hold where models are tiny
and logits of order 1. Where one is exceeded, transformers in the same 16 bits shows the rounding error of this model:
it grows with depth and with the logits (at 16, bfloat16 has steps of 0.125), and a few positions of a trained model are
so ill-conditioned that they lose a hundred times the mean. The largest error is then one draw from a heavy tail, in
which a threefold difference between two correct programs is not significant; the mean over hundreds of positions is
stable. So the mean may be MEAN_MARGIN times the mean error of transformers, and the largest error MAX_MARGIN times
theirs, which rounding does not exceed, but one wrong row among many right ones does.
"""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from benchmarks.random_pair import DTYPES, RandomPair, dequantize
from benchmarks.throughput import Drawn
from qconf.demo import PAIR
from tests.oracle import expected, tolerances

LENGTHS = (2, 61, 300, 1000)
MEAN_MARGIN, MAX_MARGIN = 1.5, 10
PACKED = ("qweight", "qzeros", "scales", "g_idx")

T = TypeVar("T")
Columns = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Reference:
    """A sequence, and the correct values of each of its tokens except the first.

    By dtype: the error that each number may always have, and the error of transformers.
    """

    ids: list[int]
    want: Columns
    allowed: dict[str, Columns]
    peer: dict[str, Columns]

    def last(self, count: int, dtype: str) -> tuple[Columns, Columns, Columns]:
        """Return all three, for so many tokens at the end."""
        want, allowed, peer = (
            {name: column[-count:] for name, column in columns.items()}
            for columns in (self.want, self.allowed[dtype], self.peer[dtype])
        )
        return want, allowed, peer


def in_process(function: Callable[..., T], *arguments: Any) -> T:
    """Return the result of a function that uses the GPU, in a process whose end frees the GPU's memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def references(pair: RandomPair, vocabulary: int) -> list[Reference]:
    """Return references for sequences of all lengths: text that the demo pair has learned, or random tokens."""
    disable_progress_bar()
    is_demo = pair.base == PAIR / "base"
    sequences = demo_texts() if is_demo else [Drawn(vocabulary, 1, n).ids(Random(n), n) for n in LENGTHS]
    exact = columns_of(pair, torch.float32, sequences)
    rounded = {name: columns_of(pair, dtype, sequences) for name, dtype in DTYPES.items()}
    return [
        Reference(
            ids,
            want,
            {dtype: _arrays(tolerances(torch.from_numpy(want["kl"]), dtype)) for dtype in rounded},
            {dtype: {name: np.abs(found[i][name] - want[name]) for name in want} for dtype, found in rounded.items()},
        )
        for i, (ids, want) in enumerate(zip(sequences, exact, strict=True))
    ]


def demo_texts() -> list[list[int]]:
    """Return items of the demo's tasks that have choices with their answers, one task for each length."""
    tokenizer, sequences = AutoTokenizer.from_pretrained(PAIR / "base"), []
    files = [each for each in sorted((PAIR.parent / "tasks").glob("*/items.jsonl")) if '"choices"' in each.read_text()]
    for length, file in zip(LENGTHS, files, strict=False):
        items = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        text = " ".join(f"{item['prompt']} {item['choices'][item['label']]}" for item in items)
        sequences.append(tokenizer(text)["input_ids"][:length])
    return sequences


def columns_of(pair: RandomPair, dtype: torch.dtype, sequences: list[list[int]]) -> list[Columns]:
    """Return transformers' values for the sequences in that dtype."""
    base, quantized = load(pair.base, pair.base, dtype), load(pair.base, pair.quantized, dtype)
    found = []
    for ids in sequences:
        one = expected(base, quantized, ids)
        found.append(_arrays({name: getattr(one, name) for name in tolerances(one.kl, "float16")}))
    return found


def load(base: Path, half: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load one half of a pair, with plain weights and plain attention, on the GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation="eager")
    tensors = {name: each for file in half.glob("*.safetensors") for name, each in load_file(file, device).items()}
    packed = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    plain = {name: each for name, each in tensors.items() if name.rpartition(".")[2] not in PACKED}
    weights = plain | {f"{name}.weight": dequantize(tensors, name) for name in packed}
    torch.nn.Module.to(model, device)
    model.load_state_dict(weights, strict=False)  # checkpoints have no tied head
    return model


def _arrays(tensors: dict[str, torch.Tensor]) -> Columns:
    return {name: each.cpu().numpy() for name, each in tensors.items()}


def joined(parts: Iterable[Columns]) -> Columns:
    """Concatenate the columns of several sequences."""
    first, *others = parts
    return {name: np.concatenate([first[name], *(part[name] for part in others)]) for name in first}


def judged(got: Columns, want: Columns, allowed: Columns, peer: Columns) -> tuple[dict[str, Any], list[str]]:
    """Return figures per column, and their problems; ``peer`` is the error of transformers in the same dtype."""
    figures: dict[str, Any] = {}
    problems = []
    for name in want:
        error = np.abs(got[name] - want[name])
        if not np.isfinite(error).all():
            figures[name] = {"missing": int((~np.isfinite(error)).sum())}
            problems.append(f"{name} is missing or not finite at {figures[name]['missing']} positions")
            continue
        ours, theirs = ({"max": float(each.max()), "mean": float(each.mean())} for each in (error, peer[name]))
        figures[name] = ours | {f"transformers_{key}": value for key, value in theirs.items()}
        figures[name]["within_tolerance"] = float((error <= allowed[name]).mean())
        if figures[name]["within_tolerance"] == 1:
            continue
        for key, margin in (("mean", MEAN_MARGIN), ("max", MAX_MARGIN)):
            if ours[key] > margin * theirs[key]:
                problems.append(f"{name}: {key} error {ours[key]:.2g}, of transformers {theirs[key]:.2g}")
    return figures, problems
