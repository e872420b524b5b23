"""Run folders with made-up log-likelihoods, for tests of what is computed from runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from qconf.run.columns import TOKEN_SCHEMA, ItemResult, Kind
from qconf.run.folder import Manifest, write_run, write_tokens
from tests.test_results import RESULT, manifest


def items(task: str, count: int, seed: int, *, choices: int = 4, noise: float = 0.3) -> list[ItemResult]:
    """Return items whose true choice is likelier than others, under two models that differ by noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(choices, size=count)
    base = rng.normal(-20, 1.5, size=(count, choices))
    base[np.arange(count), labels] += 1.5
    quantized = base + rng.normal(0, noise, size=base.shape) if noise else base
    return [
        ItemResult(
            task=task,
            doc_id=i,
            kind="multiple_choice",
            doc_hash=f"d{i}",
            prompt_hash=f"p{i}",
            label=int(labels[i]),
            n_choices=choices,
            contexts=[f"Question {i}?"],
            choices=[f" answer {k}" for k in range(choices)],
            choice_context=[0] * choices,
            choice_chars=[8] * choices,
            choice_bytes=[8] * choices,
            base_logprob=base[i].tolist(),
            quantized_logprob=quantized[i].tolist(),
            base_is_greedy=[False] * choices,
            quantized_is_greedy=[False] * choices,
        )
        for i in range(count)
    ]


def window(task: str, number: int, kind: Kind = "window") -> ItemResult:
    """Return the row of a corpus's window, or of a record."""
    return ItemResult(
        task=task,
        doc_id=number,
        kind=kind,
        doc_hash="",
        prompt_hash="",
        label=None,
        n_choices=1,
        contexts=[""],
        choices=[""],
        choice_context=[0],
        choice_chars=[0],
        choice_bytes=[0],
        base_logprob=[-30.0],
        quantized_logprob=[-31.0],
        base_is_greedy=[False],
        quantized_is_greedy=[False],
    )


def tokens(task: str, windows: int, each: int, seed: int) -> pa.Table:
    """Return the tokens of a corpus; the quantized model is a little worse."""
    rng, count = np.random.default_rng(seed), windows * each
    base = -rng.exponential(2.0, count)
    columns = {
        "task": [task] * count,
        "doc_id": np.repeat(np.arange(windows), each),
        "position": np.arange(count),
        "token_id": rng.integers(100, size=count),
        "base_logprob": base,
        "quantized_logprob": base - rng.exponential(0.05, count),
        "base_argmax": rng.integers(2, size=count),
        "quantized_argmax": rng.integers(2, size=count),
    }
    columns |= {name: rng.exponential(0.02, count) for name in ("kl", "reverse_kl", "js")}
    for name in ("base", "quantized"):
        columns |= {f"{name}_entropy": rng.random(count), f"{name}_confidence": rng.random(count)}
    columns["total_variation"] = rng.random(count) / 10
    return pa.Table.from_pydict({name: np.asarray(columns[name]) for name in TOKEN_SCHEMA.names}, schema=TOKEN_SCHEMA)


def write(
    folder: Path, rows: list[ItemResult], corpus: pa.Table | None = None, *, about: Manifest | None = None
) -> Path:
    """Write the run and return its folder."""
    if corpus is not None:
        write_tokens(folder, [corpus])
    write_run(folder, about or manifest(), rows, RESULT)
    return folder


def later() -> Manifest:
    """Return the manifest of a second run of the same pair."""
    return manifest().model_copy(update={"created": "2025-03-02T12:00:00.000+00:00"})


def again(rows: list[ItemResult], seed: int, *, base: float, quantized: float) -> list[ItemResult]:
    """Return the same items measured again, with noise of these sizes on the models' log-likelihoods."""
    rng = np.random.default_rng(seed)
    return [
        replace(
            row,
            base_logprob=(row.base_logprob + rng.normal(0, base, row.n_choices)).tolist(),
            quantized_logprob=(row.quantized_logprob + rng.normal(0, quantized, row.n_choices)).tolist(),
        )
        for row in rows
    ]
