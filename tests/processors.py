"""Processors other than this machine's: environments in which vLLM and torch take it for an older one."""

from pathlib import Path

AVX2 = {
    "PYTHONPATH": str(Path(__file__).parent / "avx2"),
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
"""Of a CPU without AVX-512, for processes that are yet to start; without effect on one that has none."""
