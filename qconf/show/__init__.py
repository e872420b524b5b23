"""Comparisons for people: colours of quantities, sentences, and HTML for notebooks."""
