"""Windows over a corpus, and a real server's scores of one, against transformers on the same tokens."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from client.bench.items import Window
from client.bench.sources.corpus import windows
from qconf.demo import PAIR, TASKS
from qconf.run.folder import Run, read_run

WINDOW = 128

# Both in bfloat16, with kernels of their own: some 0.01 nats per token, in both directions.
PERPLEXITY = 0.01


def test_side_by_side_windows_score_their_second_halves() -> None:
    """llama.cpp's default: of a window of n tokens, predictions of those from n/2 + 1 on."""
    found = windows(range(100, 125), 10, None, [])
    assert found == [
        Window(tuple(range(100, 106)), (106, 107, 108, 109), 6),
        Window(tuple(range(110, 116)), (116, 117, 118, 119), 16),
    ]
    assert windows(range(9), 10, None, []) == []
    assert [list(window.scored) for window in windows(range(7), 7, None, [])] == [[4, 5, 6]]


def test_a_special_token_takes_the_first_place_of_each_window() -> None:
    found = windows([1, *range(101, 120)], 10, None, [1])
    assert [list(window.context) for window in found] == [[1, 101, 102, 103, 104, 105], [1, 111, 112, 113, 114, 115]]


def test_strided_windows_score_as_many_tokens_as_they_are_apart() -> None:
    """llama.cpp's --ppl-stride: ceil((tokens - window) / stride) windows, each scoring its last tokens."""
    found = windows(range(100, 125), 10, 4, [])
    assert [window.position for window in found] == [6, 10, 14, 18]
    assert [token for window in found for token in window.scored] == list(range(106, 122))
    assert all(len(window.context) + len(window.scored) == 10 for window in found)
    assert len(windows(range(18), 10, 4, [])) == 2


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "prompts.txt"
    items = (TASKS / "demo_storycloze" / "items.jsonl").read_text().splitlines()[:60]
    path.write_text("\n".join(items))
    return path


@pytest.fixture(scope="module")
def run(server_url: str, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    command = ["client.bench", "--url", server_url, "--corpus", str(text), "--window", str(WINDOW), "--out", str(out)]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert "perplexity, quantized / base" in done.stdout
    return read_run(out)


def column(run: Run, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    assert run.tokens is not None
    return np.asarray(run.tokens[name], dtype=np.float64)


def test_perplexity_is_that_of_transformers(run: Run, text: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(PAIR / "base")
    model = AutoModelForCausalLM.from_pretrained(PAIR / "base", dtype=torch.bfloat16)
    ids = torch.tensor(tokenizer(text.read_text())["input_ids"])
    chunks = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW).clone()
    chunks[:, 0] = tokenizer.bos_token_id
    with torch.no_grad():
        logprobs = model(chunks).logits.float().log_softmax(-1)
    half = WINDOW // 2
    expected = logprobs[:, half:-1].gather(-1, chunks[:, half + 1 :, None]).flatten()
    assert (column(run, "token_id") == chunks[:, half + 1 :].flatten().numpy()).all()
    assert run.results["tasks"]["prompts"]["corpus"]["base_perplexity"] == pytest.approx(
        math.exp(-expected.double().mean()), rel=PERPLEXITY
    )
    assert column(run, "base_logprob").mean() == pytest.approx(expected.mean().item(), abs=PERPLEXITY)


def test_the_summary_is_that_of_the_tokens(run: Run) -> None:
    summary = run.results["tasks"]["prompts"]["corpus"]
    base, quantized, kl = (column(run, name) for name in ("base_logprob", "quantized_logprob", "kl"))
    assert summary["tokens"] == len(kl)
    assert summary["perplexity_ratio"] == pytest.approx(summary["quantized_perplexity"] / summary["base_perplexity"])
    assert summary["mean_kl"] == pytest.approx(kl.mean())
    assert summary["median_kl"] <= summary["kl_99"] <= summary["max_kl"]
    assert summary["max_kl"] == kl.max()
    assert summary["mean_delta_p"] == pytest.approx((np.exp(quantized) - np.exp(base)).mean())
    assert summary["same_top"] == pytest.approx((column(run, "base_argmax") == column(run, "quantized_argmax")).mean())
    assert (column(run, "js") <= math.log(2)).all()
    variation = column(run, "total_variation")
    assert summary["mean_total_variation"] == pytest.approx(variation.mean())
    assert (variation <= np.sqrt(kl / 2) + 1e-6).all()
    rows = run.items()
    assert sum(row.choice_tokens[0] for row in rows) == summary["tokens"]
    assert sum(row.base_logprob[0] for row in rows) == pytest.approx(base.sum(), rel=1e-6)
