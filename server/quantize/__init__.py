"""``python -m server.quantize``: make a model's GPTQ twin."""
