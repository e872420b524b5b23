"""Start a pair and everything around it that requests need, as one application."""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import FastAPI

from qconf import __version__
from qconf.wire import ModelInfo, ModelList, ServerInfo
from server.api.app import create_app
from server.api.keys import Keys
from server.api.work import Serving
from server.engine.checkpoints import Checkpoints, Source, read_checkpoints
from server.engine.digest import model_digest
from server.engine.interface import EngineInfo
from server.engine.size import model_sizes
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


@contextlib.asynccontextmanager
async def application(settings: Settings, operations_port: int | None) -> AsyncIterator[tuple["TwinEngine", FastAPI]]:
    """Start the pair, and yield its engine and the application that serves it, whose state has its ``Serving``.

    ``operations_port`` is the one that operators' routes are answered on alone, if there is one. StartError says why
    the pair cannot be served.
    """
    quotas = Quotas()
    keys = None if settings.api_key_file is None else Keys(settings.api_key_file, quotas)
    async with _serving(settings, quotas) as (engine, serving):
        app = create_app(serving, settings.max_body_bytes, keys, operations_port)
        # What was imported stays. Without this the collector walks it again and again, and blocks the event loop.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        yield engine, app


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
        work = [monitor.keep()]
        if recorder is not None:
            work.append(recorder.keep())
        if shadow is not None:
            work.append(shadow.work())
        tasks = [asyncio.create_task(each) for each in work]
        try:
            yield engine, Serving(service, admission, monitor, settings.request_seconds, shadow)
        finally:
            for task in tasks:
                task.cancel()
            monitor.save()


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
    for route in rates:
        # A counter that begins with its first calls has no rate until others come.
        monitor.metrics.requests.labels(route, "202")
    observers: list[Observer] = [lambda entry, scored: monitor.observe_mirrored(metrics.label_of(entry.source), scored)]
    if recorder is not None:
        observers.append(recorder.record)
    return Shadow(SampledKeys(settings.shadow_salt, rates), settings.shadow_queue, service, metrics, observers)


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
