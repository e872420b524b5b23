"""Greedy texts of many prompts at once, written to a file as they are finished."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from client.api import DEFAULT_TIMEOUT, AsyncClient, Client
from client.bench.display.live import LINE_EVERY
from client.bench.items import TaskError
from client.bench.replay import together
from client.bench.sources.records import RECORDS, Record
from client.errors import BadReply, InvalidRequest, QconfError
from client.lines import Lines
from client.trace.greedy import OtherModel, greedy, prompt_ids
from client.trace.prompts import Placed, read_prompts
from qconf.run.folder import RunError
from qconf.wire import ModelInfo, ModelList, problem

Say = Callable[[str], object]
"""Print a line."""


class Stopped(Exception):
    """The server went away or the user stopped; the texts written so far are in the file."""


class Interrupted(Stopped):
    """The user stopped."""


@dataclass(frozen=True)
class TraceOptions:
    """Options of the command line."""

    url: str
    prompts: Path
    out: Path
    max_tokens: int
    add_special_tokens: bool
    concurrency: int
    retries: int
    timeout: float
    resume: bool


@dataclass(frozen=True)
class Limits:
    """Where the texts of a model end: at one of ``ends``, or after ``max_tokens`` or the context."""

    base: ModelInfo
    ends: Sequence[int]
    max_tokens: int

    def most(self, prompt: Sequence[int]) -> int:
        """Return how many tokens may follow a prompt."""
        return min(self.max_tokens, self.base.max_model_len - len(prompt))


def write_trace(options: TraceOptions, say: Say, transport: httpx.MockTransport | None = None) -> None:
    """Write a record for each distinct prompt that has none yet. ``transport`` is for tests."""
    if options.out.suffix != RECORDS:
        raise RunError(f"the trace is to be written to {options.out}, expected a name that ends in {RECORDS}")
    if options.out.exists() and not options.resume:
        raise RunError(f"{options.out} exists already: --resume continues it, or choose another file")
    prompts = read_prompts(options.prompts)
    with Client(options.url, timeout=min(options.timeout, DEFAULT_TIMEOUT), retries=0, transport=transport) as client:
        limits = Limits(_base(client.models()), client.tokenizer_info().eos_token_ids, options.max_tokens)
    with Lines(options.out, f"the trace {options.out}") as lines:
        records = list(past_records(options.out, lines.read(), limits))
        _Session(options, limits, lines, records, _Progress(len(prompts), say)).run(prompts, transport)
    say(f"{len(records)} texts of {sum(len(record.token_ids) for record in records)} tokens in {options.out}")


def _base(served: ModelList) -> ModelInfo:
    for model in served.data:
        if model.id == "base":
            return model
    raise BadReply(f"expected a base model, got {[model.id for model in served.data]}")


class _Session:
    """One process's work on a trace. ``records`` grow with the file."""

    def __init__(
        self, options: TraceOptions, limits: Limits, lines: Lines, records: list[Record], progress: "_Progress"
    ) -> None:
        self._options = options
        self._limits = limits
        self._lines = lines
        self._records = records
        self._progress = progress
        self._begun = {tuple(record.prompt_token_ids) for record in records}

    def run(self, prompts: Iterable[Placed], transport: httpx.MockTransport | None) -> None:
        """Write the texts that are missing, each prompt taken when there is room."""
        options = self._options

        async def main() -> None:
            queue = iter(prompts)
            async with AsyncClient(
                options.url, timeout=options.timeout, retries=options.retries, transport=transport
            ) as client:
                await together(self._work(client, queue) for _ in range(options.concurrency))

        try:
            asyncio.run(main())
        except KeyboardInterrupt as exc:
            raise Interrupted(self._unfinished("interrupted")) from exc
        except (QconfError, OtherModel) as exc:
            raise Stopped(self._unfinished(str(exc))) from exc

    async def _work(self, client: AsyncClient, queue: Iterator[Placed]) -> None:
        for placed in queue:
            try:
                await self._write(client, placed)
            except InvalidRequest as exc:
                raise TaskError(f"{placed.place}: {exc}") from exc

    async def _write(self, client: AsyncClient, placed: Placed) -> None:
        ids = await prompt_ids(client, placed.prompt, add_special_tokens=self._options.add_special_tokens)
        if tuple(ids) in self._begun:
            self._progress.add(0)
            return
        self._begun.add(tuple(ids))
        if not 0 < len(ids) < self._limits.base.max_model_len:
            raise TaskError(
                f"{placed.place}: the prompt has {len(ids)} tokens, expected 1 to {self._limits.base.max_model_len - 1}"
            )
        digest = self._limits.base.digest
        written = await greedy(client, ids, digest=digest, most=self._limits.most(ids))
        record = Record(prompt_token_ids=ids, token_ids=written, greedy_of=digest)
        self._lines.append(record.model_dump())
        self._records.append(record)
        self._progress.add(len(written))

    def _unfinished(self, why: str) -> str:
        kept = f"{len(self._records)} texts are kept in {self._options.out}"
        return f"{why}; {kept}: run the same command with --resume to continue"


def past_records(path: Path, lines: Iterable[tuple[Any, Any]], limits: Limits) -> Iterator[Record]:
    """Yield the records of earlier sessions. RunError where this session would have written other ones."""
    for number, (_, line) in enumerate(lines, 1):
        place = f"{path}, line {number}"
        try:
            record = Record.model_validate(line)
        except ValidationError as exc:
            raise RunError(f"{place}: {problem(exc.errors()).message}") from exc
        if record.greedy_of != limits.base.digest:
            raise RunError(
                f"{place}: 'greedy_of' is {record.greedy_of!r}, expected the base model's digest "
                f"{limits.base.digest!r}: choose another file"
            )
        length, most = len(record.token_ids), limits.most(record.prompt_token_ids)
        if length > most or (length < most and record.token_ids[-1] not in limits.ends):
            raise RunError(
                f"{place} has {length} tokens, and with --max-tokens {limits.max_tokens} it would have "
                f"{most}: expected the same --max-tokens as before, or choose another file"
            )
        yield record


class _Progress:
    """A line every few seconds."""

    def __init__(self, prompts: int, say: Say) -> None:
        self._prompts, self._say = prompts, say
        self._done = self._tokens = 0
        self._started = self._said = time.monotonic()

    def add(self, tokens: int) -> None:
        """Count a prompt that is done, and the tokens that this session wrote for it."""
        self._done += 1
        self._tokens += tokens
        now = time.monotonic()
        if now - self._said >= LINE_EVERY:
            self._said = now
            self._say(f"{self._done}/{self._prompts} prompts, {self._tokens / (now - self._started):.1f} tokens/s")
