"""Stands in for setuptools."""
