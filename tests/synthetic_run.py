"""Run folders with made-up log-likelihoods, for tests of what is computed from runs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from qconf.run.columns import TOKEN_SCHEMA, AnswerResult, ItemResult, Kind
from qconf.run.folder import Manifest, write_answers, write_run, write_tokens
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


def generated(
    task: str, count: int, seed: int, *, clusters: int | None = None
) -> tuple[list[ItemResult], list[AnswerResult]]:
    """Return items with generated answers; the quantized model's answer is another one in a third of the cases, and in
    half of these right or wrong where the base model's is not."""
    rng, rows, answers = np.random.default_rng(seed), [], []
    for i in range(count):
        right, parts, flips = rng.random(3) < (0.6, 1 / 3, 0.5)
        tokens = int(rng.integers(4, 20))
        verdicts = {"base": bool(right), "quantized": bool(right ^ (parts & flips))}
        metrics = {
            model: json.dumps({"none": {"exact_match": float(hit), "score": 0.5}, "loose": {"exact_match": hit}})
            for model, hit in verdicts.items()
        }
        filtered = {model: json.dumps({"none": f"{hit}", "loose": f"{hit}"}) for model, hit in verdicts.items()}
        rows.append(
            replace(
                window(task, i),
                kind="generate_until",
                n_choices=0,
                choices=[],
                base_logprob=[],
                quantized_logprob=[],
                cluster=None if clusters is None else f"c{i % clusters}",
                base_metrics=metrics["base"],
                quantized_metrics=metrics["quantized"],
            )
        )
        answers.append(
            AnswerResult(
                task=task,
                doc_id=i,
                base_text=f"text {i}",
                quantized_text=f"text {i}{' and more' if parts else ''}",
                base_tokens=tokens,
                quantized_tokens=tokens + (int(rng.integers(1, 9)) if parts else 0),
                base_finish_reason="stop",
                quantized_finish_reason="stop",
                common_prefix=int(rng.integers(tokens)) if parts else tokens,
                acceptance=float(rng.uniform(0.8, 1)),
                base_mean_kl=float(rng.exponential(0.02)),
                quantized_mean_kl=float(rng.exponential(0.03)),
                base_filtered=filtered["base"],
                quantized_filtered=filtered["quantized"],
            )
        )
    return rows, answers


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
    folder: Path,
    rows: list[ItemResult],
    corpus: pa.Table | None = None,
    answers: list[AnswerResult] | None = None,
    *,
    about: Manifest | None = None,
) -> Path:
    """Write the run and return its folder."""
    if corpus is not None:
        write_tokens(folder, [corpus])
    if answers is not None:
        write_answers(folder, answers)
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
