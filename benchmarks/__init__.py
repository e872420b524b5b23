"""Measurements that the documentation cites; each module is a command."""
