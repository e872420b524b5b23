"""Run folders: what a replay writes and everything else reads."""
