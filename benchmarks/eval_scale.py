"""``python -m benchmarks.eval_scale``: time and memory of the statistics on runs far larger than most.

A million items of four choices with 2,000 resamples, and a hundred million tokens streamed from parquet, by default:
each in a process of its own, with its own peak memory. Other work on the machine hardly changes the CPU time.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from eval.analysis.items import analyse
from eval.analysis.tokens import analyse_tokens
from qconf.run.choices import Choices
from qconf.run.columns import TOKEN_SCHEMA
from qconf.run.folder import TOKENS
from qconf.statistics.bootstrap import RESAMPLES

CHUNK = 1_000_000
WINDOW = 255


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description="Time and memory of the statistics at scale.")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=100_000_000)
    options = parser.parse_args()
    measured(f"{options.items:,} items of four choices, {RESAMPLES:,} resamples", analyse_items, options.items)
    with tempfile.TemporaryDirectory() as folder:
        write_tokens(Path(folder), options.tokens)
        measured(f"{options.tokens:,} tokens of parquet", analyse_corpus, Path(folder))


def measured(label: str, work: Callable[..., None], *arguments: object) -> None:
    """Run the work in a fresh process and print its times and peak memory."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.SimpleQueue[tuple[float, float, float]] = context.SimpleQueue()
    process = context.Process(target=_timed, args=(results, work, *arguments))
    process.start()
    process.join()
    seconds, cpu, gigabytes = results.get()
    print(f"{label}: {seconds:.1f} s, {cpu:.1f} s of CPU time, {gigabytes:.2f} GB at most", flush=True)


def _timed(
    results: "multiprocessing.SimpleQueue[tuple[float, float, float]]", work: Callable[..., None], *arguments: object
) -> None:
    begin, cpu = time.perf_counter(), time.process_time()
    work(*arguments)
    # getrusage would report the parent's peak where it was higher.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    results.put((time.perf_counter() - begin, time.process_time() - cpu, int(peak.split()[1]) / 1e6))


def analyse_items(count: int) -> None:
    """Analyse items of one task under two models that differ by some noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=count)
    base = rng.normal(-20, 1.5, size=(count, 4))
    base[np.arange(count), labels] += 1.5
    choices = Choices(
        tasks=("task",),
        task=np.zeros(count, np.int64),
        doc_id=np.arange(count),
        labels=labels,
        sizes=np.full(count, 4),
        base_logprobs=base,
        quantized_logprobs=base + rng.normal(0, 0.3, size=base.shape),
        chars=np.full((count, 4), 8),
    )
    analyse(choices, rng)


def write_tokens(folder: Path, count: int) -> None:
    """Write tokens chunk by chunk; the numbers repeat, the windows do not."""
    rng = np.random.default_rng(0)
    random = {
        name: -rng.exponential(2.0, CHUNK) if name.endswith("logprob") else rng.random(CHUNK)
        for name in TOKEN_SCHEMA.names
        if pa.types.is_floating(TOKEN_SCHEMA.field(name).type)
    }
    with pq.ParquetWriter(folder / TOKENS, TOKEN_SCHEMA, compression="zstd") as writer:
        for begin in range(0, count, CHUNK):
            size = min(CHUNK, count - begin)
            position = np.arange(begin, begin + size)
            whole = {name: position for name in ("position", "token_id", "base_argmax", "quantized_argmax")}
            columns = {name: values[:size] for name, values in random.items()} | whole
            columns |= {"task": np.full(size, "corpus"), "doc_id": position // WINDOW}
            table = pa.Table.from_pydict({name: columns[name] for name in TOKEN_SCHEMA.names}, schema=TOKEN_SCHEMA)
            writer.write_table(table)


def analyse_corpus(folder: Path) -> None:
    """Analyse all of a corpus."""
    analyse_tokens(folder, "corpus")


if __name__ == "__main__":
    main()
