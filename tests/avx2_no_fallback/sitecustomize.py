"""As in tests/avx2, and without the server's own kernel: what a kernel that is missing looks like when it is called."""

import importlib.util
import runpy
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

runpy.run_path(str(Path(__file__).parents[1] / "avx2" / "sitecustomize.py"))


class _WithoutChoice:
    """Finds server.engine.twin.cpu, and takes away its choice of kernels once it is imported."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != "server.engine.twin.cpu":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            module.__dict__["choose_kernels"] = lambda dtype: None

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _WithoutChoice())
