"""Other processors than this machine's: environments in which vLLM and torch detect an older processor.

``env $(python -m tests.processors) COMMAND`` runs a command as on a machine without AVX-512.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent
AVX2 = {
    "PYTHONPATH": str(_FOLDER / "avx2"),
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
"""Variables of a process that is to take the machine for one without AVX-512; no effect where it has none."""
AVX2_WITHOUT_KERNEL = AVX2 | {"PYTHONPATH": str(_FOLDER / "avx2_no_fallback")}
"""The same, and the server does not bring its own kernel for packed weights."""

if __name__ == "__main__":
    print(*(f"{name}={value}" for name, value in AVX2.items()))
