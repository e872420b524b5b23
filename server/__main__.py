"""``python -m server``: serve a pair."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from pydantic import ValidationError

from qconf import __version__
from server.engine.preload import preload_libraries
from server.errors import StartError

if TYPE_CHECKING:
    import uvicorn

    from server.scoring.service import Service
    from server.settings import Settings

USAGE_ERROR = 2


class Stopped(BaseException):
    """The process was asked to stop by a signal."""


def main() -> int:
    """Run the server until it is stopped; returns the exit code."""
    try:
        return _run()
    except ValidationError as error:
        return _refuse(_sentence(error))
    except StartError as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        return _refuse(
            f"the package {error.name} is missing: install qconf with its extra 'gpu', or for CPUs as the README says"
        )
    except Stopped:
        return 0


def _run() -> int:
    from pydantic_settings import CliApp

    from server.settings import Settings

    settings = CliApp.run(Settings)
    if settings.log_level in ("WARNING", "ERROR"):
        _silence_libraries()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", settings.log_level)
    # When a counter began is of no use to Prometheus, which would store it beside each.
    os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "True")
    preload_libraries()
    with _stopped_by(signal.SIGTERM, signal.SIGINT), _bound_socket(settings) as listener:
        return asyncio.run(_serve(settings, listener))


async def _serve(settings: "Settings", listener: socket.socket) -> int:
    import uvicorn  # these take seconds to import; wrong usage is told before

    from server.engine.pair import read_pair

    assert settings.model is not None
    assert settings.quantized is not None
    started = time.perf_counter()
    _say(f"qconf {__version__}: {settings.model} and {settings.quantized}")
    if settings.demo:
        _say("this is the bundled demo pair: give --model and --quantized to serve your own")
    pair = read_pair(
        settings.model, settings.quantized, settings.revision, settings.quantized_revision, settings.allow_unquantized
    )

    from server.monitoring.monitor import Monitor, load_reference, make_state_folder

    reference = None if settings.reference is None else load_reference(settings.reference)
    if settings.state_dir is not None:
        make_state_folder(settings.state_dir)

    from server.api.app import create_app  # and these, which import vLLM, take longer than all checks of the pair
    from server.engine.engine import parse_engine_args, running_engine
    from server.scoring.service import Service, model_list

    async with running_engine(pair, parse_engine_args(list(settings.engine_args), demo=settings.demo)) as engine:
        info = engine.info
        _say(f"vLLM {info.vllm_version} on {info.device}, {info.dtype}, context {info.max_model_len} tokens")
        models = model_list(pair, info)
        monitor = Monitor(
            models,
            reference,
            window_comparisons=settings.window_comparisons,
            window_seconds=settings.window_seconds,
            folder=settings.state_dir,
        )
        service = Service(engine, pair, models, settings.max_sequences, monitor)
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(service, monitor, settings.max_body_bytes),
                log_level=settings.log_level.lower(),
                timeout_graceful_shutdown=settings.grace_seconds,
            )
        )
        # What was imported stays; else the collector walks it again and again, and the event loop waits half a second.
        gc.collect()
        gc.freeze()
        watcher = asyncio.create_task(_watch(service, server, listener, started))
        keeper = asyncio.create_task(monitor.keep())
        try:
            await server.serve(sockets=[listener])
        finally:
            watcher.cancel()
            keeper.cancel()
            monitor.save()
        if not service.is_ready:
            reason = ": ".join(filter(None, ["the engine has died", engine.failure]))
            print(f"qconf-server: error: {reason}", file=sys.stderr)
            return 1
    return 0


async def _watch(service: "Service", server: "uvicorn.Server", listener: socket.socket, started: float) -> None:
    """Say when connections are accepted, and end the server when its engine dies."""
    while not server.started:
        await asyncio.sleep(0.05)
    host, port = listener.getsockname()[:2]
    _say(f"ready on http://{host}:{port} after {time.perf_counter() - started:.0f} s")
    while service.is_ready:
        await asyncio.sleep(1)
    server.should_exit = True


@contextlib.contextmanager
def _bound_socket(settings: "Settings") -> Iterator[socket.socket]:
    """The address, taken before minutes are spent on loading; it listens only once the server is ready."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            raise StartError(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}") from error
        yield listener


@contextlib.contextmanager
def _stopped_by(*signals: signal.Signals) -> Iterator[None]:
    def stop(_: int, __: FrameType | None) -> NoReturn:
        raise Stopped

    previous = [signal.signal(number, stop) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


def _silence_libraries() -> None:
    # In every process of vLLM, torch and vLLM warn of their own deprecations and of what a machine does not have.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_LOGS", "-torch")  # errors only


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return message
    return f"--{str(first['loc'][0]).replace('_', '-')} is {first['input']!r}: {message[0].lower() + message[1:]}"


def _say(message: str) -> None:
    print(message, flush=True)


def _refuse(message: str) -> int:
    print(f"qconf-server: error: {message}", file=sys.stderr)
    return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
