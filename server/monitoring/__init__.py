"""What is counted about a pair while it is served."""
