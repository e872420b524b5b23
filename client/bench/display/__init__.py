"""Output of a replay, while it runs and when it ends."""
