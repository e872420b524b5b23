"""Links into the page of a server, which open an item there token by token."""

import base64
import json
from collections.abc import Mapping
from typing import Any


def page_link(server: str, request: Mapping[str, Any], variant: str) -> str:
    """Return the address of the page of a server at a URL that asks for a comparison and shows one variant.

    The request is behind the ``#``: it is sent when the page asks, and appears in no log of addresses.
    """
    view = json.dumps({"request": request, "variant": variant}, ensure_ascii=False)
    fragment = base64.urlsafe_b64encode(view.encode()).decode().rstrip("=")
    return f"{server.rstrip('/')}/#{fragment}"
