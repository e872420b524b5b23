"""Make this process take the machine for one without AVX-512. Python imports it at start where it is on PYTHONPATH.

vLLM then loads its build for AVX2. tests/processors.py sets the variables that limit torch's own libraries too.
"""

import torch

_capabilities = torch.cpu.get_capabilities


def _without_avx512() -> dict[str, object]:
    return {name: value for name, value in _capabilities().items() if not name.startswith(("avx512", "amx", "avx10"))}


vars(torch.cpu)["get_capabilities"] = _without_avx512
