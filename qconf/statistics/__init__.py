"""Statistics of two models on the same items: pure functions of arrays."""
