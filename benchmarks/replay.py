"""``python -m benchmarks.replay``: the bench against unmodified lm-eval, which must run once per model.

Both replay the same four-choice items with contexts of about 150 tokens against the same server with the demo pair.
Every round has items of its own, so that no run finds contexts of another in the prefix cache, and the two take turns
at going first. Times are of whole commands; the time to start a command, measured with a single item, is also
subtracted, since it is negligible in long runs.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from transformers import AutoTokenizer

from demo.local_server import running_server
from qconf.demo import PAIR, TASKS

BASE = PAIR / "base"
CONTEXT_TOKENS = 150
CONCURRENCY = 32

Runner = Callable[[str], None]
"""Function that replays the task of that name."""


def main() -> None:
    """Print a table, and with ``--json`` write the figures to a file."""
    parser = argparse.ArgumentParser(description="Compare the bench with lm-eval run once per model.")
    parser.add_argument("--items", type=int, default=300, help="items per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_server("--demo") as server:
        folder = Path(name)
        runners: dict[str, Runner] = {
            "client.bench": Bench(server.url, folder),
            "lm-eval, twice": Harness(server.url, folder),
        }
        for index in range(options.rounds):
            write_task(folder, f"round{index}", make_items(options.items, seed=index))
        write_task(folder, "start", make_items(1, seed=-1))
        starts = {label: timed(run, "start") for label, run in runners.items()}
        seconds: dict[str, list[float]] = {label: [] for label in runners}
        for index in range(options.rounds):
            for label in sorted(runners, reverse=bool(index % 2)):
                seconds[label].append(timed(runners[label], f"round{index}"))
    figures = report(options.items, starts, seconds)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


class Bench:
    """Replay in one pass for both models."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder

    def __call__(self, task: str) -> None:
        check(
            [
                sys.executable, "-m", "client.bench", "--url", self._url, "--tasks", task, "--quiet",
                "--include-path", str(self._folder), "--concurrency", str(CONCURRENCY), "--no-special-tokens",
                "--out", str(self._folder / f"run-{task}"),
            ]
        )  # fmt: skip


class Harness:
    """Run lm-eval once per model, with its best settings: a tokenizer of its own, and many requests at once."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder

    def __call__(self, task: str) -> None:
        for model in ("base", "quantized"):
            arguments = {
                "model": model,
                "base_url": f"{self._url}/v1/completions",
                "tokenizer": BASE,
                "tokenizer_backend": "huggingface",
                "num_concurrent": CONCURRENCY,
                "max_length": 1024,
            }
            check(
                [
                    str(Path(sys.executable).with_name("lm_eval")), "--model", "local-completions", "--model_args",
                    ",".join(f"{key}={value}" for key, value in arguments.items()), "--tasks", task,
                    "--include_path", str(self._folder),
                ]
            )  # fmt: skip


def check(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")


def timed(run: Runner, task: str) -> float:
    begin = time.perf_counter()
    run(task)
    return time.perf_counter() - begin


def make_items(count: int, seed: int) -> list[dict[str, Any]]:
    """Make items of a demo task with four choices, each after other texts of the world up to the context's length."""
    rng = random.Random(seed)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    lines = (TASKS / "demo_hellaswag" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    pool = [json.loads(line) for line in lines]
    items = []
    for _ in range(count):
        prompt = rng.choice(pool)["prompt"]
        doc = rng.choice(pool)
        while len(tokenizer(f"{prompt} {doc['prompt']}")["input_ids"]) < CONTEXT_TOKENS:
            prompt = f"{prompt} {rng.choice(pool)['prompt']}"
        items.append(doc | {"prompt": f"{prompt} {doc['prompt']}"})
    return items


def write_task(folder: Path, name: str, items: list[dict[str, Any]]) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / f"{name}.yaml").write_text(json.dumps(config), encoding="utf-8")


def report(items: int, starts: dict[str, float], seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Print and return medians, their spread and the ratios."""
    figures: dict[str, Any] = {"items": items, "runs": {}}
    print(f"{items} four-choice items, contexts of {CONTEXT_TOKENS} tokens, {CONCURRENCY} requests in flight\n")
    print(f"{'':16}{'seconds (spread)':>24}{'start':>8}{'items/s':>10}{'without start':>16}")
    for label, each in seconds.items():
        whole, net = median(each), median(each) - starts[label]
        figures["runs"][label] = {
            "seconds": each,
            "start_seconds": starts[label],
            "items_per_second": items / whole,
            "items_per_second_without_start": items / net,
        }
        spread = f"{whole:.1f} ({min(each):.1f}-{max(each):.1f})"
        print(f"{label:16}{spread:>24}{starts[label]:>8.1f}{items / whole:>10.2f}{items / net:>16.2f}")
    ours, theirs = figures["runs"]["client.bench"], figures["runs"]["lm-eval, twice"]
    for key in ("items_per_second", "items_per_second_without_start"):
        figures[f"ratio_of_{key}"] = ours[key] / theirs[key]
    print(
        f"\nratio: {figures['ratio_of_items_per_second']:.1f}, "
        f"without start: {figures['ratio_of_items_per_second_without_start']:.1f}"
    )
    return figures


if __name__ == "__main__":
    main()
