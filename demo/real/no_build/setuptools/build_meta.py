"""Answer pip's question for an archive's metadata from its PKG-INFO.

pip asks even for a download without dependencies, and the real setuptools would run the archive's setup.py.
"""

import sys
from email.parser import BytesHeaderParser
from pathlib import Path


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: object = None) -> str:
    """Write name and version, which are all that pip needs, and return the folder that has them."""
    about = BytesHeaderParser().parsebytes(Path("PKG-INFO").read_bytes())
    folder = f"{about['Name'].replace('-', '_')}-{about['Version']}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {about['Name']}\nVersion: {about['Version']}\n"
    (Path(metadata_directory) / folder).mkdir()
    (Path(metadata_directory) / folder / "METADATA").write_text(metadata, encoding="utf-8")
    return folder


__legacy__ = sys.modules[__name__]
"""The name by which pip finds the backend of an archive without pyproject.toml."""
