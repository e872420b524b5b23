"""``python -m client.results``: convert a run folder to sample files of lm-eval, and back."""
