"""Settings of the server that replicas on Ray Serve can have."""

from typing import Any

from server.settings import Settings

ADDRESSES = ("host", "port", "ssl_certfile", "ssl_keyfile", "operations_host", "operations_port")
FOLDERS = ("state_dir", "shadow_record")


def replica_settings(args: dict[str, Any]) -> Settings:
    """Return the settings that ``args`` gives by name. ValueError names one that replicas cannot have."""
    settings = Settings(**args)
    for names, why in (
        (ADDRESSES, "Serve's proxies listen for requests, and each replica on a free port for operators"),
        (FOLDERS, "each replica would write to the same folder"),
    ):
        for name in names:
            if name in settings.model_fields_set:
                raise ValueError(f"args.{name} is {str(getattr(settings, name))!r}, expected it to be left out: {why}")
    return settings
