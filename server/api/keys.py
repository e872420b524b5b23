"""API keys: who may ask, and under which name."""

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.operations_port import TRUSTED
from server.api.refusal import refusal
from server.errors import StartError, Unauthorized
from server.monitoring.service_metrics import PRINCIPAL
from server.scoring.quotas import Quota, Quotas

logger = logging.getLogger(__name__)
RELOAD_SECONDS = 1.0
FEWEST_CHARACTERS = 16
LINE = re.compile(r"([A-Za-z0-9_.-]{1,64})\s*=\s*(\S+)((?:\s+\S+)*)")
QUOTA = re.compile(r"(requests|tokens)-per-minute=([1-9][0-9]{0,14})")


@dataclass(frozen=True)
class Key:
    """A key's SHA-256 digest, and what it may use."""

    digest: bytes
    quota: Quota


def read_keys(file: Path) -> dict[str, Key]:
    """Read principals and their keys. ValueError names the wrong line, never a key."""
    keys: dict[str, Key] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"line {number}: expected NAME = KEY, NAME of letters, digits and _.-")
        name, key, quotas = found.groups()
        if len(key) < FEWEST_CHARACTERS:
            raise ValueError(f"line {number}: the key of {name} is shorter than {FEWEST_CHARACTERS} characters")
        if name in keys:
            raise ValueError(f"line {number}: {name} has a key already")
        keys[name] = Key(hashlib.sha256(key.encode()).digest(), _quota(name, number, quotas.split()))
    if not keys:
        raise ValueError("it has no key")
    return keys


def _quota(name: str, number: int, fields: list[str]) -> Quota:
    limits: dict[str, int] = {}
    for field in fields:
        found = QUOTA.fullmatch(field)
        if found is None or found[1] in limits:
            raise ValueError(
                f"line {number}: what follows the key of {name} is no quota, expected requests-per-minute=NUMBER or "
                "tokens-per-minute=NUMBER, each once"
            )
        limits[found[1]] = int(found[2])
    return Quota(limits.get("requests"), limits.get("tokens"))


class Keys:
    """The keys of a file, read again when the file changes. StartError where it cannot be read at first."""

    def __init__(self, file: Path, quotas: Quotas, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._quotas = quotas
        self._clock = clock
        try:
            self._state = self._stat()
            self._read()
        except (OSError, ValueError) as error:
            raise StartError(f"--api-key-file {file}: {error}") from error
        self._checked = clock()

    def principal(self, secret: str) -> str | None:
        """Return the name that a key belongs to, in the same time for a wrong key as for a right one."""
        self._reload()
        digest = hashlib.sha256(secret.encode("utf-8", "replace")).digest()
        found = None
        for name, key in self._keys.items():
            if hmac.compare_digest(digest, key.digest):
                found = name
        return found

    def _read(self) -> None:
        self._keys = read_keys(self._file)
        self._quotas.set({name: key.quota for name, key in self._keys.items()})

    def _stat(self) -> tuple[int, int, int]:
        stat = self._file.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _reload(self) -> None:
        if self._clock() < self._checked + RELOAD_SECONDS:
            return
        self._checked = self._clock()
        try:
            if (state := self._stat()) == self._state:
                return
            self._state = state
            self._read()
            logger.info("read the API keys again: %d", len(self._keys))
        except (OSError, ValueError) as error:
            logger.warning("--api-key-file cannot be read, the keys of before stay valid: %s", error)


class KeysMiddleware:
    """Answers 401 without a valid ``Authorization: Bearer KEY``, except on open paths; notes whose key it was."""

    def __init__(self, app: ASGIApp, keys: Keys, open_paths: Collection[str]) -> None:
        self._app = app
        self._keys = keys
        self._open = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in self._open or scope.get(TRUSTED):
            return await self._app(scope, receive, send)
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        principal = self._keys.principal(key.strip()) if scheme.lower() == "bearer" else None
        if principal is None:
            wrong = "is missing" if not scheme else "has no valid key"
            error = Unauthorized(f"the header 'Authorization' {wrong}, expected 'Bearer KEY'")
            return await refusal(scope, error, {"www-authenticate": "Bearer"})(scope, receive, send)
        scope[PRINCIPAL] = principal
        await self._app(scope, receive, send)
