"""The page at ``/``: static files that ask this server's own routes, and what the page alone needs."""
