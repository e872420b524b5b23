"""The demo pair: a small world of text with known probabilities, a model trained on it, and six tasks about it."""
