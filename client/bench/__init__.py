"""``python -m client.bench``: replay benchmarks against a server."""
