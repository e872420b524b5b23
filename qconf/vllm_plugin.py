"""Entry point in the group "vllm.general_plugins": every process of vLLM registers the pair's model for itself."""

import logging
import os
import traceback
from contextlib import suppress

ARCHITECTURE = "QconfTwinForCausalLM"
FAILURE_VARIABLE = "_QCONF_FAILURE"
"""Environment variable with the file in which a process of vLLM leaves why it failed."""
_FAILING = ("vllm.v1.engine.core", "vllm.v1.executor.multiproc_executor")
"""Loggers that tell of exceptions which end a process; tested on vLLM 0.32."""


class FailureFile(logging.Handler):
    """Keeps the first exception that ends a process: the server's process sees only that some process has ended."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the exception's last line, which names its kind."""
        path = os.environ.get(FAILURE_VARIABLE)
        if path and record.exc_info and record.exc_info[1]:
            reason = traceback.format_exception_only(record.exc_info[1])[-1].strip()
            with suppress(FileExistsError), open(path, "x", encoding="utf-8") as file:
                file.write(reason)


def register() -> None:
    """Make the pair known to vLLM, by name only: nothing heavy is imported until a pair is served."""
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "server.engine.twin.model:Twin")
        for name in _FAILING:
            logging.getLogger(name).addHandler(FailureFile(logging.ERROR))
