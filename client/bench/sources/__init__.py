"""Sources of items: lm-eval's tasks, files, corpora."""
