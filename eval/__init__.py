"""Statistics of what quantization did to confidence. Imports numpy-level libraries only."""
