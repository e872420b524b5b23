"""The pair on one vLLM engine."""
