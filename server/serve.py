"""Build the server of its models from its settings, and run it until it is stopped."""

import asyncio
import contextlib
import gc
import ipaddress
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING

import uvicorn

from qconf import __version__
from qconf.wire import ModelInfo, ModelList, ServerInfo
from server.api.app import create_app
from server.api.connection import Connection
from server.api.keys import Keys
from server.api.work import Serving
from server.engine.checkpoints import Checkpoints, Source, read_checkpoints
from server.engine.digest import model_digest
from server.engine.interface import EngineInfo
from server.engine.size import model_sizes
from server.errors import StartError
from server.monitoring.monitor import Monitor, load_reference, make_folder
from server.scoring.admission import Admission, Limits
from server.scoring.canary import check_canary
from server.scoring.quotas import Quotas
from server.scoring.service import Service
from server.settings import Settings, shadow_rates
from server.shadow.metrics import ShadowMetrics
from server.shadow.recorder import Recorder
from server.shadow.sampling import SampledKeys
from server.shadow.shadow import Observer, Shadow
from server.shadow.sources import source_labels

if TYPE_CHECKING:
    from server.engine.engine import TwinEngine

logger = logging.getLogger(__name__)
GC_THRESHOLDS = (50_000, 20, 100)
"""A body of a million lists would otherwise be walked through dozens of times while it is parsed."""
WATCH_SECONDS = 0.1
LATE_SECONDS = 5
"""What requests get after the time of grace, to be told that they were given up."""
ENGINE_DIED = 1
IDLE_CONNECTION_SECONDS = 75
"""Then an HTTP connection without a request is closed. Load balancers keep theirs for 60: the side that sends must be
first to close, or requests meet a closed connection."""
TCP_PROBES = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""Options of TCP keepalive, in seconds and probes: a client whose machine has vanished is noticed after 90 seconds."""


async def serve(settings: Settings, listeners: Sequence[socket.socket]) -> int:
    """Run the server; returns the exit code. StartError says why the pair cannot be served."""
    started = time.perf_counter()
    if settings.api_key_file is None and not _is_loopback(settings.host):
        logger.warning("anyone who can reach %s can use the server: --api-key-file asks for keys", settings.host)
    quotas = Quotas()
    keys = None if settings.api_key_file is None else Keys(settings.api_key_file, quotas)
    async with _serving(settings, quotas) as (engine, serving):
        operations_port = None if settings.operations_port is None else listeners[1].getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(serving, settings.max_body_bytes, keys, operations_port),
                http=Connection,
                ws="none",
                server_header=False,
                ssl_certfile=settings.ssl_certfile,
                ssl_keyfile=settings.ssl_keyfile,
                log_config=None,
                access_log=False,
                timeout_keep_alive=IDLE_CONNECTION_SECONDS,
                timeout_graceful_shutdown=settings.grace_seconds + LATE_SECONDS,
            )
        )
        # What was imported stays. Without this the collector walks it again and again, and blocks the event loop.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        for listener in listeners:
            listen(listener)
        scheme = "http" if settings.ssl_certfile is None else "https"
        tasks = [
            asyncio.create_task(_report(server, listeners, started, scheme)),
            asyncio.create_task(_stop(server, serving, settings.grace_seconds)),
            asyncio.create_task(serving.monitor.keep()),
        ]
        if serving.shadow is not None:
            tasks.append(asyncio.create_task(serving.shadow.work()))
        try:
            await server.serve(sockets=list(listeners))
        finally:
            for task in tasks:
                task.cancel()
            serving.monitor.save()
        if not engine.is_alive:
            logger.error(": ".join(filter(None, ["the engine has died", engine.failure])))
            return ENGINE_DIED
    return 0


@contextlib.asynccontextmanager
async def _serving(settings: Settings, quotas: Quotas) -> AsyncIterator[tuple["TwinEngine", Serving]]:
    """Start the engine and everything around it that requests need."""
    assert settings.model is not None
    logger.info("qconf %s: %s and %s", __version__, settings.model, ", ".join(settings.quantized))
    if settings.demo:
        logger.info("this is the bundled demo pair: give --model and --quantized to serve your own")
    variants = {name: Source(*source) for name, source in settings.variants.items()}
    checkpoints = read_checkpoints(Source(settings.model, settings.revision), variants, settings.allow_unquantized)
    reference = None if settings.reference is None else load_reference(settings.reference)
    if settings.state_dir is not None:
        make_folder(settings.state_dir, "--state-dir")
    if settings.shadow_record is not None:
        make_folder(settings.shadow_record, "--shadow-record")

    from server.engine.engine import parse_engine_args, running_engine  # vLLM takes longer than all checks

    arguments = parse_engine_args(list(settings.engine_args), models=len(checkpoints.all), demo=settings.demo)
    async with running_engine(checkpoints, arguments, settings.stalled_seconds) as engine:
        info = engine.info
        logger.info(
            "vLLM %s on %s, %s, context %d tokens", info.vllm_version, info.device, info.dtype, info.max_model_len
        )
        models = await asyncio.to_thread(model_list, checkpoints, info)
        if settings.state_dir is not None:
            await check_canary(engine, models, settings.state_dir)
        monitor = Monitor(
            models,
            reference,
            window_comparisons=settings.window_comparisons,
            window_seconds=settings.window_seconds,
            folder=settings.state_dir,
            sources=source_labels(settings.shadow_source) if settings.shadow_on else (),
        )
        limits = Limits(settings.max_requests, settings.max_sequences, settings.queue_seconds)
        # Whatever learns of every comparison is listed here.
        observers = [monitor]
        service = Service(engine, checkpoints.tokenizer, models, monitor.metrics, quotas, observers)
        admission = Admission(limits, monitor.metrics, quotas)
        recorder = _recorder(settings, models, monitor)
        shadow = _shadow(settings, service, monitor, recorder) if settings.shadow_on else None
        async with _kept(recorder):
            yield engine, Serving(service, admission, monitor, settings.request_seconds, shadow)


def _recorder(settings: Settings, models: ModelList, monitor: Monitor) -> Recorder | None:
    """Make what records mirrored calls."""
    if settings.shadow_record is None:
        return None
    return Recorder(
        settings.shadow_record,
        [model.id for model in models.data[1:]],
        monitor.registry,
        days=settings.shadow_record_days,
        tokens=settings.shadow_record_tokens,
    )


def _shadow(settings: Settings, service: Service, monitor: Monitor, recorder: Recorder | None) -> Shadow:
    """Make what takes mirrored calls."""
    rates = shadow_rates(settings.shadow_rate)
    sources = source_labels(settings.shadow_source)
    metrics = ShadowMetrics(rates, sources, settings.shadow_queue, monitor.registry)
    observers: list[Observer] = [lambda entry, scored: monitor.observe_mirrored(metrics.label_of(entry.source), scored)]
    if recorder is not None:
        observers.append(recorder.record)
    return Shadow(SampledKeys(settings.shadow_salt, rates), settings.shadow_queue, service, metrics, observers)


@contextlib.asynccontextmanager
async def _kept(recorder: Recorder | None) -> AsyncIterator[None]:
    """Delete old records meanwhile."""
    task = None if recorder is None else asyncio.create_task(recorder.keep())
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


def model_list(checkpoints: Checkpoints, info: EngineInfo) -> ModelList:
    """Describe the models, base first, and what serves them. Reads all weights, for their digests."""
    created = int(time.time())
    return ModelList(
        data=[
            ModelInfo(
                id=name,
                created=created,
                root=checkpoint.public_name,
                revision=checkpoint.commit,
                digest=model_digest(checkpoint),
                architecture=checkpoint.architectures[0],
                dtype=info.dtype,
                quantization=checkpoint.quantization,
                max_model_len=info.max_model_len,
                size=size,
            )
            for name, checkpoint, size in zip(
                ["base", *checkpoints.variants], checkpoints.all, model_sizes(checkpoints), strict=True
            )
        ],
        server=ServerInfo(version=__version__, vllm=info.vllm_version, device=info.device),
    )


async def _report(server: uvicorn.Server, listeners: Sequence[socket.socket], started: float, scheme: str) -> None:
    """Report when connections are accepted."""
    while not server.started:
        await asyncio.sleep(WATCH_SECONDS)
    addresses = ["{}://{}:{}".format(scheme, *listener.getsockname()[:2]) for listener in listeners]
    logger.info("ready on %s after %.0f s", " and ".join(addresses), time.perf_counter() - started)


async def _stop(server: uvicorn.Server, serving: Serving, grace_seconds: float) -> None:
    """End the server when its engine dies, and all work when a server that is being stopped has had its time."""
    service = serving.service
    while service.engine.is_alive and not server.should_exit:
        await asyncio.sleep(WATCH_SECONDS)
    server.should_exit = True
    service.stop_admitting()
    await asyncio.sleep(grace_seconds if service.engine.is_alive else 0)
    serving.ended.set()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def bound_sockets(settings: Settings) -> Iterator[list[socket.socket]]:
    """Bind the addresses, that for operators last, before minutes are spent on loading.

    They listen only once the server is ready.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(bound(settings.host, settings.port))]
        if settings.operations_port is not None:
            sockets.append(stack.enter_context(bound(settings.operations_host, settings.operations_port)))
        yield sockets


def bound(host: str, port: int) -> socket.socket:
    """Bind an address. StartError where that cannot be."""
    # asyncio sends without delay (TCP_NODELAY) only where the protocol is named.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in TCP_PROBES.items():
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def listen(listener: socket.socket) -> None:
    """Listen. The kernel lets two servers bind one address while neither listens: the second one to get here fails."""
    try:
        listener.listen()
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror}") from error
