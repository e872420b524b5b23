"""The server: both models on one vLLM engine behind one HTTP interface."""
