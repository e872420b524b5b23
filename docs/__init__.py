"""The documentation. ``python -m docs.generate`` writes the reference pages that follow from the code."""
