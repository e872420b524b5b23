"""Compilation at start, never on a user's request: C++ on a CPU, Triton on a GPU."""

import os
import shutil
import sys
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


class Compiled(Generic[T]):
    """A function of tensors, compiled when it is first called, for any number of rows but one.

    Where it cannot be compiled, for instance without a compiler on the machine, it runs as it is, after one line.
    """

    def __init__(self, function: Callable[..., T]) -> None:
        self._function = function
        self._compiled = torch.compile(function, dynamic=True, fullgraph=True)
        self._works: bool | None = None

    def __call__(self, *tensors: torch.Tensor) -> T:
        if self._works is False:
            return self._function(*tensors)
        try:
            if self._works is None and tensors[0].device.type == "cpu":
                _find_compiler()
                _keep_instruction_sets_apart()
            result = self._compiled(*tensors)
        except Exception as error:
            if self._works:
                raise
            self._works = False
            reason = str(error).strip().splitlines()[0]
            print(f"qconf: statistics are not compiled, and slower ({reason})", file=sys.stderr, flush=True)
            return self._function(*tensors)
        self._works = True
        return result


def _find_compiler() -> None:
    """Raise an error where torch would raise one only after seconds of work for the compiler."""
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        raise FileNotFoundError(f"there is no C++ compiler {name}")


def _keep_instruction_sets_apart() -> None:
    """Give each instruction set a cache of its own: torch 2.13 loads code of another, whose results are wrong."""
    # Imported only where there is a compiler: it takes a second.
    from torch._inductor import cpu_vec_isa
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    name = str(cpu_vec_isa.pick_vec_isa()).replace(" ", "_")
    # torch sets the variable itself, to its default, when it first looks for its cache.
    if os.environ.get(CACHE_VARIABLE) in (None, default_cache_dir()):
        os.environ[CACHE_VARIABLE] = f"{default_cache_dir()}_{name}"
