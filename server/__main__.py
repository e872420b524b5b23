"""``python -m server``: serve a pair."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from pydantic import ValidationError

from qconf.tracing import tracing
from server.engine.preload import preload_libraries, set_environment
from server.errors import StartError

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

    from server.logs import set_up_logs, vllm_logs
    from server.settings import Settings

    settings = CliApp.run(Settings)
    set_up_logs(settings.log_level, settings.log_format)
    set_environment(settings.log_level)
    preload_libraries()

    with (
        vllm_logs(settings.log_level, settings.log_format),
        tracing("qconf-server"),
        _stopped_by(signal.SIGTERM, signal.SIGINT),
    ):
        from server.serve import bound_sockets, serve  # takes seconds to import; wrong usage is refused before

        with bound_sockets(settings) as listeners:
            return asyncio.run(serve(settings, listeners))


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


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return message
    return f"--{str(first['loc'][0]).replace('_', '-')} is {first['input']!r}: {message[0].lower() + message[1:]}"


def _refuse(message: str) -> int:
    print(f"qconf-server: error: {message}", file=sys.stderr)
    return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
