"""The qconf server: a full-precision model and its quantized twin on one vLLM engine."""

__version__ = "0.1.0"
