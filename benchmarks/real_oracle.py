"""``python -m benchmarks.real_oracle``: check a run of ``make real`` against transformers in float32.

The run must have been served in float32 (``make real ARGS="--dtype float32"``). The quantized checkpoint is dequantized
here by plain arithmetic, and nothing of the server is used. Exit code 1: a difference beyond its tolerance.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

# Read when torch loads: threads that wait by spinning are several times slower on cores shared with others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

Floats = npt.NDArray[np.float64]

TASK, CORPUS, WINDOW = "social_iqa", "corpus", 512
# In float32 the engine and transformers differ in the order of sums only: of 30 layers, and of up to 512 positions.
TOLERANCES = {"log-probability": 5e-4, "KL": 2e-4, "entropy": 5e-4}


class Differences:
    """The largest difference of each quantity, and how many values were compared."""

    def __init__(self) -> None:
        self._largest: dict[str, float] = defaultdict(float)
        self._count: dict[str, int] = defaultdict(int)

    def add(self, name: str, found: Any, expected: Any) -> None:
        """Compare values, or arrays of the same length."""
        difference = np.abs(np.asarray(found, dtype=np.float64) - np.asarray(expected, dtype=np.float64))
        self._largest[name] = max(self._largest[name], float(difference.max()))
        self._count[name] += difference.size

    def report(self) -> bool:
        """Print a line for each quantity, and return whether all are within their tolerances."""
        held = True
        for name, largest in self._largest.items():
            tolerance = next(value for quantity, value in TOLERANCES.items() if quantity in name)
            held &= largest <= tolerance
            print(f"{name:37} {self._count[name]:7,} values, largest difference {largest:.1e}, tolerated {tolerance:g}")
        return held


class Pair:
    """Both models and their tokenizer in transformers, in float32."""

    def __init__(self, base: str, quantized: Path) -> None:
        load: Any = AutoModelForCausalLM.from_pretrained
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
        self._models = load(base, dtype=torch.float32), load(base, dtype=torch.float32)
        loaded = self._models[1].load_state_dict(dequantized(quantized), strict=False)
        absent = set(loaded.missing_keys) - {"lm_head.weight"}  # which may be the embeddings
        if absent or loaded.unexpected_keys:
            raise ValueError(f"{quantized}: missing {sorted(absent)}, unexpected {loaded.unexpected_keys}")

    @torch.no_grad()
    def logprobs(self, ids: list[int]) -> tuple[Floats, Floats]:
        """Return both models' log-probabilities over the vocabulary; row i predicts token i + 1."""
        batch = torch.tensor([ids])
        base, quantized = (model(batch).logits[0, :-1].double().log_softmax(-1) for model in self._models)
        return base.numpy(), quantized.numpy()


def dequantized(folder: Path) -> dict[str, torch.Tensor]:
    """Return a GPTQ checkpoint's weights in float32 by name."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    layers = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    weights = {f"{layer}.weight": torch.from_numpy(dequantized_layer(tensors, layer)) for layer in layers}
    parts = {f"{layer}.{part}" for layer in layers for part in ("qweight", "qzeros", "scales", "g_idx")}
    return weights | {name: tensor.float() for name, tensor in tensors.items() if name not in parts}


def dequantized_layer(tensors: dict[str, torch.Tensor], layer: str) -> npt.NDArray[np.float32]:
    """Return scale x (level - zero) as (out, in): levels packed along in, zeros minus one packed along out."""
    shifts = np.arange(0, 32, 4, dtype=np.int32)
    packed, packed_zeros = (tensors[f"{layer}.{part}"].numpy() for part in ("qweight", "qzeros"))
    levels = (packed[:, None, :] >> shifts[:, None] & 15).reshape(-1, packed.shape[1])
    zeros = (packed_zeros[:, :, None] >> shifts & 15).reshape(len(packed_zeros), -1) + 1
    group = tensors[f"{layer}.g_idx"].numpy()
    scales = tensors[f"{layer}.scales"].float().numpy()
    weight: npt.NDArray[np.float32] = scales[group] * (levels - zeros[group]).astype(np.float32)
    return np.ascontiguousarray(weight.T)


def kl(base: Floats, quantized: Floats) -> Floats:
    divergences: Floats = (np.exp(base) * (base - quantized)).sum(-1)
    return divergences


def entropy(logprobs: Floats) -> Floats:
    entropies: Floats = -(np.exp(logprobs) * logprobs).sum(-1)
    return entropies


def check_items(pair: Pair, run: Path, count: int, differences: Differences) -> int:
    """Compare items, and return how many chosen answers differ although their margin exceeds the tolerance."""
    items = pq.read_table(run / "items.parquet", filters=pc.field("task") == TASK).slice(0, count).to_pylist()
    wrong = 0
    for item in items:
        expected: dict[str, list[float]] = {"base": [], "quantized": []}
        means = []
        for choice, context in zip(item["choices"], item["choice_context"], strict=True):
            before = len(pair.tokenizer(item["contexts"][context])["input_ids"])
            ids = pair.tokenizer(item["contexts"][context] + choice)["input_ids"]
            base, quantized = (each[before - 1 :] for each in pair.logprobs(ids))
            rows = np.arange(len(ids) - before), ids[before:]
            expected["base"].append(base[rows].sum())
            expected["quantized"].append(quantized[rows].sum())
            means.append(kl(base, quantized).mean())
        for model, sums in expected.items():
            found = item[f"{model}_logprob"]
            differences.add(f"{TASK}: {model} log-probability", found, sums)
            best, second = sorted(sums, reverse=True)[:2]
            wrong += int(np.argmax(found) != np.argmax(sums) and best - second > TOLERANCES["log-probability"])
        differences.add(f"{TASK}: mean KL of a choice", item["choice_mean_kl"], means)
    print(f"{TASK}: {len(items)} items, {wrong} chosen answers that differ")
    return wrong


def check_windows(pair: Pair, corpus: Path, run: Path, count: int, differences: Differences) -> int:
    """Compare windows of the corpus, and return how many scored tokens are not the corpus's."""
    ids = pair.tokenizer(corpus.read_text(encoding="utf-8"), verbose=False)["input_ids"]
    tokens = pq.read_table(run / "tokens.parquet", filters=pc.field("task") == CORPUS).to_pandas()
    wrong = windows = 0
    for number, rows in list(tokens.groupby("doc_id"))[:count]:
        window = ids[number * WINDOW : (number + 1) * WINDOW]
        at = rows["position"].to_numpy() - number * WINDOW
        wrong += int((rows["token_id"].to_numpy() != np.asarray(window)[at]).sum())
        base, quantized = (each[at - 1] for each in pair.logprobs(window))
        for model, logprobs in (("base", base), ("quantized", quantized)):
            scored = logprobs[np.arange(len(at)), rows["token_id"].to_numpy()]
            differences.add(f"{CORPUS}: {model} log-probability", rows[f"{model}_logprob"], scored)
            differences.add(f"{CORPUS}: {model} entropy", rows[f"{model}_entropy"], entropy(logprobs))
        differences.add(f"{CORPUS}: KL", rows["kl"], kl(base, quantized))
        windows += 1
    print(f"{CORPUS}: {windows} windows, {wrong} tokens that differ")
    return wrong


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_oracle", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("real"), help="the work folder of make real")
    parser.add_argument("--model", help="the base model, if it is not the package's")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--windows", type=int, default=20)
    args = parser.parse_args()
    run = args.work / "run"
    models = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["subject"]["models"]
    for name, model in models.items():
        if model["dtype"] != "float32":
            parser.error(f"{run}: the {name} model was served in {model['dtype']}, expected float32")
    pair = Pair(args.model or str(args.work / "base"), args.work / "quantized")
    differences = Differences()
    wrong = check_items(pair, run, args.items, differences)
    wrong += check_windows(pair, args.work / "corpus.txt", run, args.windows, differences)
    return 0 if differences.report() and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
