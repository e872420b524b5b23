"""HTTP: routes, limits, errors."""
