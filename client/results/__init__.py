"""``python -m client.results``: sample files of lm-eval out of a run folder, and into one."""
