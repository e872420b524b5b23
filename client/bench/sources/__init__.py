"""Where items come from: lm-eval's tasks, files, corpora."""
