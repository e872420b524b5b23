"""Options of the command line, and the tasks and files that it names."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from client.api import Client
from client.bench.items import LoadedTask, TaskError
from client.bench.servers import Servers
from client.bench.sources.corpus import DEFAULT_WINDOW, load_corpus
from client.bench.sources.data import load_data
from client.bench.sources.lm_eval_tasks import LoadedTasks, load_tasks
from client.bench.sources.records import RECORDS, load_records
from client.bench.sources.requests import load_requests
from qconf.run.folder import Settings, Subject, TaskRecord, UntilSettings
from qconf.wire import Both, ModelInfo, ServerInfo


@dataclass(frozen=True)
class BenchOptions:
    """Options of the command line."""

    urls: list[str]
    tasks: list[str]
    data: list[Path]
    corpora: list[Path]
    include_path: Path | None
    num_fewshot: int | None
    limit: int | None
    delimiter: str
    window: int | None
    stride: int | None
    add_special_tokens: bool
    concurrency: int
    retries: int
    timeout: float
    out: Path
    resume: bool
    quiet: bool
    until: Path | None = None
    seed: int = 0
    cluster: str | None = None
    variant: str | None = None
    expected_counts: bool = False
    requests: list[Path] = field(default_factory=list)


def load(
    options: BenchOptions, client: Client, base: ModelInfo, transport: httpx.MockTransport | None = None
) -> LoadedTasks:
    """Load everything to score: files first, because their errors appear at once. ``base`` is the base model."""
    files = [load_data(path, delimiter=options.delimiter, limit=options.limit) for path in options.data]
    files += [_corpus(path, options, client, base) for path in options.corpora]
    files += [_requests(path, options, base, transport) for path in options.requests]
    loaded = LoadedTasks([], {})
    if options.tasks:
        loaded = load_tasks(
            options.tasks,
            include_path=options.include_path,
            num_fewshot=options.num_fewshot,
            limit=options.limit,
            cluster=options.cluster,
        )
    names = [task.name for task in loaded.tasks + files]
    if twice := [name for name in names if names.count(name) > 1]:
        raise TaskError(f"two of the tasks and files are named '{twice[0]}': each needs a name of its own")
    return LoadedTasks(loaded.tasks + files, loaded.groups)


def _corpus(path: Path, options: BenchOptions, client: Client, base: ModelInfo) -> LoadedTask:
    if path.suffix == RECORDS:
        return load_records(path, base, window=options.window, stride=options.stride, limit=options.limit)
    return load_corpus(
        path,
        client,
        window=options.window or DEFAULT_WINDOW,
        stride=options.stride,
        add_special_tokens=options.add_special_tokens,
        limit=options.limit,
    )


def _requests(path: Path, options: BenchOptions, base: ModelInfo, transport: httpx.MockTransport | None) -> LoadedTask:
    return load_requests(
        path,
        base,
        lambda: Servers(
            options.urls,
            concurrency=options.concurrency,
            timeout=options.timeout,
            retries=options.retries,
            transport=transport,
        ),
        concurrency=options.concurrency,
        window=options.window,
        stride=options.stride,
        add_special_tokens=options.add_special_tokens,
        limit=options.limit,
    )


def subject_of(
    options: BenchOptions,
    server: ServerInfo,
    models: Both[ModelInfo],
    tasks: Sequence[LoadedTask],
    until: UntilSettings | None = None,
) -> Subject:
    """Return what a run measures."""
    return Subject(
        server=server,
        models=models,
        settings=Settings(
            tasks=options.tasks,
            data=[str(path) for path in options.data],
            corpora=[str(path) for path in options.corpora],
            requests=[str(path) for path in options.requests],
            num_fewshot=options.num_fewshot,
            limit=options.limit,
            add_special_tokens=options.add_special_tokens,
            delimiter=options.delimiter,
            window=options.window,
            stride=options.stride,
            until=until,
            cluster=options.cluster,
            expected_counts=options.expected_counts,
        ),
        tasks=[
            TaskRecord(
                name=task.name,
                version=task.version,
                num_fewshot=task.num_fewshot,
                items=len(task.items),
                digest=task.digest,
                calls=task.calls,
                refusal=task.refusal,
            )
            for task in tasks
        ],
    )
