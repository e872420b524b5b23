"""Tokens per second that both models generate: one twin engine, beside plain vLLM with each model in turn.

Both run greedily, to a fixed number of tokens, with text and log-probabilities left out on vLLM's side and every
token scored under both models on ours. Rounds alternate; each figure is the median of its rounds.
"""

import argparse
import asyncio
import math
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from qconf.demo import PAIR

PROMPT = [1, 300, 301]
Generate = Callable[[int, int], float]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=PAIR / "base", help="Folder of the base model.")
    parser.add_argument("--quantized", type=Path, default=PAIR / "quantized", help="Folder of its twin.")
    parser.add_argument("--tokens", type=int, default=64, help="Tokens of each answer.")
    parser.add_argument("--rounds", type=int, default=5, help="Rounds, the engines by turns.")
    options = parser.parse_args()
    models = [str(options.base), str(options.quantized)]
    engines = {"twin": _Process(_twin, models), "base": _Process(_plain, models[:1])}
    engines["quantized"] = _Process(_plain, models[1:])
    try:
        print(f"{'answers at once':>15} {'twin, both models':>18} {'vLLM, each in turn':>19} {'ratio':>6}")
        for number in (1, 8, 32):
            times: dict[str, list[float]] = {name: [] for name in engines}
            for _ in range(options.rounds + 1):
                for name, engine in engines.items():
                    times[name].append(engine.time(number, options.tokens))
            # The first round compiles, and fills caches.
            seconds = {name: statistics.median(values[1:]) for name, values in times.items()}
            tokens = 2 * number * options.tokens
            ours, theirs = tokens / seconds["twin"], tokens / (seconds["base"] + seconds["quantized"])
            print(f"{number:>15} {ours:>14.0f} t/s {theirs:>15.0f} t/s {ours / theirs:>6.2f}")
    finally:
        for engine in engines.values():
            engine.stop()


class _Process:
    """An engine in a process of its own."""

    def __init__(self, serve: Callable[[Connection, list[str]], None], models: list[str]) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, models))
        self._process.start()
        self._pipe.recv()

    def time(self, number: int, tokens: int) -> float:
        """Return the seconds that so many answers of so many tokens take, begun at once."""
        self._pipe.send((number, tokens))
        seconds: float = self._pipe.recv()
        return seconds

    def stop(self) -> None:
        """End the engine."""
        self._pipe.send(None)
        self._process.join()


def _prompts(number: int) -> list[list[int]]:
    return [[*PROMPT, 310 + i] for i in range(number)]


def _plain(pipe: Connection, models: list[str]) -> None:
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(models[0], dtype="bfloat16", enforce_eager=True, kv_cache_memory_bytes=2**28)
    pipe.send("ready")
    while (work := pipe.recv()) is not None:
        number, tokens = work
        params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)
        prompts = [TokensPrompt(prompt_token_ids=prompt) for prompt in _prompts(number)]
        started = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        pipe.send(time.perf_counter() - started)
    llm.llm_engine.engine_core.shutdown()
    os._exit(0)  # vLLM's remaining objects raise errors while Python unloads modules


def _twin(pipe: Connection, models: list[str]) -> None:
    asyncio.run(_twin_async(pipe, models))
    os._exit(0)


async def _twin_async(pipe: Connection, models: list[str]) -> None:
    from server.engine.checkpoints import Source, read_checkpoints
    from server.engine.engine import parse_engine_args, running_engine
    from server.engine.interface import Sampling
    from server.scoring.together import together

    checkpoints = read_checkpoints(Source(models[0]), {"quantized": Source(models[1])})
    async with running_engine(checkpoints, parse_engine_args(["--dtype", "bfloat16"]), math.inf) as engine:
        pipe.send("ready")
        while (work := await asyncio.to_thread(pipe.recv)) is not None:
            number, tokens = work

            async def answer(prompt: list[int], model: int, tokens: int = tokens) -> None:
                async for _ in engine.generate(prompt, Sampling((model,), tokens)):
                    pass

            started = time.perf_counter()
            await together(answer(prompt, model) for prompt in _prompts(number) for model in (0, 1))
            pipe.send(time.perf_counter() - started)


if __name__ == "__main__":
    main()
