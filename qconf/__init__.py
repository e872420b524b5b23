"""What server, client and eval share: wire types, run folders, statistics. It imports none of them."""

__version__ = "0.1.0"
