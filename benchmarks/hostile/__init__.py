"""Hostile input: requests, files and a fuzzer that no honest client sends, and what may come of them."""
