"""A folder for PYTHONPATH, with which pip downloads an archive and runs nothing of it."""
