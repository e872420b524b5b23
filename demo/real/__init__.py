"""``make real``: a real language model and its GPTQ twin, from packages of the package index to a verdict."""
