"""Compilation at start, never on a user's request: C++ on a CPU, Triton on a GPU."""

import os
import shutil
import sys
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


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
