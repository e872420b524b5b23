"""What a replay shows while it runs and when it ends."""
