"""One vLLM engine with all models. With twin/, the only code that imports vLLM.

Tested on vLLM 0.32; 0.26 has the same interfaces.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import re
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

# vLLM reads these at import. Its warnings are many and not for the operator of a server.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import vllm
import vllm.exceptions
from vllm import PoolingParams
from vllm.config import LoadConfig, ModelConfig, VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensInput
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

from qconf.vllm_plugin import ARCHITECTURE, FAILURE_VARIABLE
from server.engine.checkpoints import Checkpoint, Checkpoints
from server.engine.interface import EngineInfo, Sampling, Step
from server.engine.memory import killed_for_memory, oom_kills
from server.engine.twin.cpu import allow_float32, check_servable
from server.engine.twin.model import import_models, variant_config, variant_configs
from server.engine.twin.pooler import request_options
from server.engine.twin.rows import WIDTH, Rows
from server.engine.twin.scheduler import TwinScheduler
from server.engine.twin.steps import submit_steps
from server.errors import NotFinite, RequestError, StartError, Unavailable
from server.processor import fast_dtype

CPU_BLOCK_SIZE = 32
"""Tokens per block of the prefix cache on CPU. vLLM's 128 there would share little of a typical prompt."""
CPU_KV_CACHE_BYTES = 2**29
"""For each model: all have their part of the cache for the same tokens."""
DEMO_GPU_MEMORY: dict[str, object] = {"gpu_memory_utilization": 0.1, "kv_cache_memory_bytes": 2**28}
"""The share that must be free at start, and the cache; both can be set."""
FAILED_REQUEST = (EngineGenerateError, getattr(vllm.exceptions, "GenerationError", EngineGenerateError))
"""What vLLM raises for a request that fails: the first up to 0.32, the second, which is new there, from 0.33 on."""
SHUTDOWN_SECONDS = 20
STATISTICS_SECONDS = 5
GPTQ_SERVED = "GPTQ is served with 4 or 8 bits, symmetric, without desc_act unless the group size is -1"
MISSING_OPERATOR = re.compile(r"'_OpNamespace' '\w+' object has no attribute '(\w+)'")
"""What torch says when an operator is called that no library has registered."""
RETRY_AFTER = 30
"""Seconds after which a client may try again where the engine has died and the server with it."""


class TwinEngine:
    """The engine on vLLM; ``interface.Engine`` says what it does."""

    def __init__(
        self, llm: AsyncLLM, config: VllmConfig, info: EngineInfo, queue_times: "QueueTimes", failure: "Failure"
    ) -> None:
        self._llm = llm
        self._failure = failure
        self._queue_times = queue_times
        self._ids = itertools.count()
        self._door = asyncio.Lock()
        self._prefix_caching = bool(config.cache_config.enable_prefix_caching)
        self._block_size = config.cache_config.block_size
        self.info = info

    async def score(self, token_ids: list[int], start: int = 0, top: int = 0, *, counts: bool = False) -> list[Rows]:
        """Return for each variant one row for every token after ``start``, exact over the full vocabulary."""
        wanted = len(token_ids) - 1 - start
        if wanted <= 0:
            none = np.zeros((2, self.info.vocab_size), np.float32) if counts else None
            return [Rows(np.empty((0, WIDTH + 4 * top), np.float32), counts=none)] * self.info.variants
        options = request_options(start, top, counts=counts)
        # A prefix cache holds whole blocks, so with less than one before the start any hit would cost rows.
        rows = await self._encode(token_ids, options, read_cache=self._prefix_caching and start >= self._block_size)
        if len(rows[0].values) < wanted:  # the cache covered positions that are asked for, as in an identical request
            again = await self._encode(token_ids, options, read_cache=False)
            rows = [its.after(first) for its, first in zip(again, rows, strict=True)]
        for each in rows:
            _check(each, wanted, start)
        return rows

    async def generate(self, token_ids: list[int], sampling: Sampling, top: int = 0) -> AsyncGenerator[Step]:
        """Yield the places after a sequence, which goes on with what the first model of ``sampling`` draws."""
        params = PoolingParams(
            task="token_classify",
            requires_token_ids=True,
            skip_reading_prefix_cache=not self._prefix_caching,
            extra_kwargs=request_options(len(token_ids) - 1, top) | {"generate": asdict(sampling)},
        )
        request_id = f"generate-{next(self._ids)}"
        with self._queue_times.expected(request_id), _translated():
            async with contextlib.aclosing(submit_steps(self._llm, token_ids, params, request_id)) as outputs:
                async for output in outputs:
                    values = output.outputs.data.numpy().swapaxes(0, 1)
                    rows = [Rows(its[:, :-1], computed_tokens=0) for its in values]
                    for each in rows:
                        _check(each, len(sampling.models), len(token_ids))
                    yield Step(values[0, :, -1].astype(int).tolist(), rows)

    async def _encode(self, token_ids: list[int], options: dict[str, int], *, read_cache: bool) -> list[Rows]:
        params = PoolingParams(
            task="token_classify",
            skip_reading_prefix_cache=not read_cache,
            extra_kwargs=options,
        )
        # Submitting a sequence blocks the event loop for 0.5 ms: yield between submissions.
        async with self._door:
            await asyncio.sleep(0)
        tokens = TokensInput(type="token", prompt_token_ids=token_ids)
        request_id = f"score-{next(self._ids)}"
        with self._queue_times.expected(request_id) as queue_seconds, _translated():
            async for output in self._llm.encode(tokens, params, request_id=request_id):
                if output.finished:
                    cached = output.num_cached_tokens if read_cache else 0
                    queued = await self._known(queue_seconds)
                    computed = len(token_ids) - cached
                    by_variant = output.outputs.data.numpy().swapaxes(0, 1)
                    rows = [Rows(values, computed, cached, queued) for values in by_variant]
                    if options["counts"]:
                        rows = [each.taken_apart(self.info.vocab_size) for each in rows]
                    return rows
        raise RuntimeError("the engine ended a request without an answer")

    async def _known(self, queue_seconds: "asyncio.Future[float]") -> float:
        """Await the queue time, which is reported just after the output, unless the engine dies in between."""
        try:
            return await asyncio.wait_for(queue_seconds, STATISTICS_SECONDS)
        except TimeoutError:
            return 0.0

    @property
    def is_alive(self) -> bool:
        """Whether the engine's processes run, and finish steps while there is work."""
        return not (self._llm.errored or self._queue_times.stalled)

    @property
    def failure(self) -> str | None:
        """Why the engine died, in one sentence, if that is known."""
        if self._queue_times.stalled:
            return f"it has work and has finished no step for {self._queue_times.stalled_seconds:g} s"
        return self._failure.reason()

    def shutdown(self) -> None:
        """Stop the engine's processes."""
        self._llm.shutdown(timeout=SHUTDOWN_SECONDS)
        # An error that is being reported may hold this object; vLLM's would print a traceback if collected at exit.
        del self._llm


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except EngineDeadError as error:
        raise Unavailable("the engine has died", retry_after=RETRY_AFTER) from error
    except FAILED_REQUEST as error:
        raise RequestError(f"the engine failed on the request: {error}") from error


def _check(rows: Rows, wanted: int, start: int) -> None:
    """Check what the engine returned for one variant."""
    if len(rows.values) != wanted:
        raise RuntimeError(f"the engine returned {len(rows.values)} rows, expected {wanted}")
    finite = np.isfinite(rows.values).all(axis=1)
    if not finite.all():
        raise NotFinite(f"a model's logits are not finite where token {start + 1 + int(finite.argmin())} is predicted")


class QueueTimes(StatLoggerBase):
    """Queue times of sequences, and the time of the latest step, which vLLM reports to stat loggers only."""

    def __init__(self, stalled_seconds: float) -> None:
        self.stalled_seconds = stalled_seconds
        self._expected: dict[str, asyncio.Future[float]] = {}
        self._progress = time.monotonic()
        self._stalled = False

    @property
    def stalled(self) -> bool:
        """Whether the engine had work and finished no step for too long, now or at an earlier call."""
        # The server ends on it, which takes the work away.
        self._stalled |= bool(self._expected) and time.monotonic() - self._progress > self.stalled_seconds
        return self._stalled

    @contextlib.contextmanager
    def expected(self, request_id: str) -> Iterator[asyncio.Future[float]]:
        """Yield the future queue time of a request in seconds, which is known just after its output."""
        future = asyncio.get_running_loop().create_future()
        if not self._expected:
            self._progress = time.monotonic()
        self._expected[request_id] = future
        try:
            yield future
        finally:
            del self._expected[request_id]

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        *_: object,
        **__: object,
    ) -> None:
        """Called by vLLM after each step."""
        self._progress = time.monotonic()
        for finished in iteration_stats.finished_requests if iteration_stats else ():
            future = self._expected.get(finished.request_id or "")
            if future is not None and not future.done():
                future.set_result(finished.queued_time)

    def log_engine_initialized(self) -> None:
        """Nothing to say."""


def parse_engine_args(arguments: list[str], *, models: int = 2, demo: bool = False) -> argparse.Namespace:
    """Parse vLLM's engine arguments for so many models; the process exits with code 2 on one that vLLM does not know.

    The dtype "auto", the default, becomes float16 on a GPU and the fastest one on a CPU, whatever the checkpoint has.
    The demo pair is small: on a GPU it takes little of the memory by default, where vLLM would take nearly all.
    """
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(prog="qconf-server [engine arguments]"))
    # Pickled weights can hold code, and so are loaded by none but those who ask for it.
    defaults: dict[str, object] = {"enable_prefix_caching": True, "load_format": "safetensors"}
    if current_platform.is_cpu():
        # Compiling takes longer than most work on a CPU is worth. vLLM's own cache would take most of the memory.
        defaults |= {
            "block_size": CPU_BLOCK_SIZE,
            "kv_cache_memory_bytes": models * CPU_KV_CACHE_BYTES,
            "enforce_eager": True,
            "use_tqdm_on_load": False,
        }
        # vLLM would start a process more, which imports for ten seconds, and keep a core free; that process is for
        # those who bind each device's threads to cores.
        if "VLLM_CPU_OMP_THREADS_BIND" not in os.environ:
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    elif demo:
        defaults |= DEMO_GPU_MEMORY
    parser.set_defaults(**defaults)
    namespace: argparse.Namespace = parser.parse_args(arguments)
    if namespace.dtype == "auto":
        namespace.dtype = fast_dtype() if current_platform.is_cpu() else "float16"
    return namespace


@contextlib.asynccontextmanager
async def running_engine(
    checkpoints: Checkpoints, namespace: argparse.Namespace, stalled_seconds: float
) -> AsyncIterator[TwinEngine]:
    """Start the engine for all models, and shut it down at exit. StartError says in one sentence why it cannot start.

    An engine that has work and finishes no step for ``stalled_seconds`` is not alive.
    """
    if namespace.pipeline_parallel_size > 1:
        raise StartError(
            f"--pipeline-parallel-size is {namespace.pipeline_parallel_size}, expected 1: models that run "
            "side by side cannot be split into stages; use --tensor-parallel-size or --data-parallel-size"
        )
    _keep_plugin_enabled()
    with tempfile.TemporaryDirectory(prefix="qconf-") as folder:
        failure = Failure(Path(folder) / "failure", oom_kills())
        os.environ[FAILURE_VARIABLE] = str(failure.file)
        config, info = _configure(checkpoints, namespace)
        queue_times = QueueTimes(stalled_seconds)
        async with contextlib.AsyncExitStack() as stack:
            try:
                engine = TwinEngine(
                    AsyncLLM.from_vllm_config(
                        config, disable_log_stats=namespace.disable_log_stats, stat_loggers=[lambda *_: queue_times]
                    ),
                    config,
                    info,
                    queue_times,
                    failure,
                )
                # On the event loop, or vLLM's reader logs the ended processes as an error.
                stack.callback(engine.shutdown)
                await engine.score([0, 0])  # the first request of a process compiles for seconds; not on a user's time
            except Exception as error:
                raise StartError(f"vLLM cannot run the pair: {failure.reason() or _reason(str(error))}") from error
            yield engine


@dataclass(frozen=True)
class Failure:
    """Where the engine's processes leave a reason when they end, and how many were OOM-killed before they began."""

    file: Path
    oom_kills: int

    def reason(self) -> str | None:
        """Why the engine's processes ended, in one sentence, if that is known."""
        if self.file.exists():
            return _reason(self.file.read_text(encoding="utf-8"))
        return killed_for_memory(self.oom_kills)


def _configure(checkpoints: Checkpoints, namespace: argparse.Namespace) -> tuple[VllmConfig, EngineInfo]:
    """Build all models' configurations, so that what vLLM refuses is refused before weights load."""
    allow_float32()
    import_models([ARCHITECTURE])
    base, variants = checkpoints.base, checkpoints.variants
    namespace.model, namespace.revision = base.name, base.revision
    namespace.served_model_name = namespace.served_model_name or [base.public_name]  # a label of its metrics
    args = AsyncEngineArgs.from_cli_args(namespace)
    # vLLM computes the logits of pooling models in float32, those of others in the model's dtype. All models get the
    # latter, as in serving, unless the user says otherwise for all.
    overrides = {"head_dtype": "model"} | (dict(args.hf_overrides) if isinstance(args.hf_overrides, dict) else {})
    args.runner, args.convert = "pooling", "none"
    args.scheduler_cls = TwinScheduler
    args.hf_overrides = overrides | {
        "architectures": [ARCHITECTURE],
        "qconf_architectures": base.architectures,
        "qconf_variants": [
            {"name": name, "model": each.name, "revision": each.revision} for name, each in variants.items()
        ],
        "qconf_overrides": overrides,
    }
    try:
        config = args.create_engine_config()
        # Unless the user sets it, the context is the shortest of all.
        if args.max_model_len is None:
            described = config.model_config.hf_config.qconf_variants
            shortest = min(variant_config(config.model_config, each, None).max_model_len for each in described)
            if shortest < config.model_config.max_model_len:
                args.max_model_len = shortest
                config = args.create_engine_config()
        quantized = variant_configs(config.model_config)
    except (ValueError, NotImplementedError) as error:
        raise StartError(f"vLLM refuses the pair: {_reason(str(error))}") from error
    for checkpoint, its_config in zip(variants.values(), quantized, strict=True):
        _check_quantization(checkpoint, its_config, config.load_config)
    return config, EngineInfo(
        vllm_version=vllm.__version__,
        device=current_platform.device_name,
        dtype=str(config.model_config.dtype).removeprefix("torch."),
        max_model_len=config.model_config.max_model_len,
        vocab_size=config.model_config.get_vocab_size(),
        eos_token_ids=_eos_token_ids(config.model_config),
        step_tokens=config.scheduler_config.max_num_batched_tokens,
        step_sequences=config.scheduler_config.max_num_seqs,
        variants=len(variants),
    )


def _eos_token_ids(model: ModelConfig) -> tuple[int, ...]:
    """Return the ids that end a text: none, one or several in the checkpoint."""
    found = model.try_get_generation_config().get("eos_token_id")
    return tuple(found) if isinstance(found, list) else () if found is None else (found,)


def _check_quantization(checkpoint: Checkpoint, config: ModelConfig, load: LoadConfig) -> None:
    """Refuse what vLLM cannot serve here, with what would help."""
    try:
        check_servable(checkpoint.quantization_config or {})
        VllmConfig.get_quantization_config(config, load)
    except (ValueError, NotImplementedError) as error:
        hint = f"; {GPTQ_SERVED}" if checkpoint.quantization == "gptq" else ""
        raise StartError(f"vLLM refuses {checkpoint.name}: {_reason(str(error))}{hint}") from error


def _keep_plugin_enabled() -> None:
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and "qconf" not in allowed.split(","):
        os.environ["VLLM_PLUGINS"] = f"{allowed},qconf"


def _reason(message: str) -> str:
    """Return the reason in vLLM's message, on one line; pydantic and the choice of kernels take several."""
    if missing := MISSING_OPERATOR.search(message):
        return (
            f"vLLM's build for this processor has no kernel {missing[1]}, which the checkpoint needs: "
            "serve it on another CPU or on a GPU, or quantize it with GPTQ"
        )
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()] or ["no reason given"]
    values = [line for line in lines if line.startswith("Value error, ")]
    line = values[0] if values else lines[0]
    if line.endswith("Reasons:"):
        line = " ".join([line, "; ".join(lines[1:])])
    return line.removeprefix("Value error, ").partition(" [type=")[0].rstrip(".")
