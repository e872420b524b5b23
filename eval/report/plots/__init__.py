"""The report's figures, by subject."""
