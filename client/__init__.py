"""Typed client of a qconf server."""
