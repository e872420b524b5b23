"""A record of mirrored calls: a line of JSON for each, in a file a day, bounded in size and in age."""

import asyncio
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from server.scoring.reply import summary
from server.scoring.scored import Scored
from server.shadow.queue import Entry

logger = logging.getLogger(__name__)
NAME = re.compile(r"calls-(\d{4}-\d\d-\d\d)\.jsonl")
MOST_BYTES = 2**30
"""Of one day's file."""
TIDY_SECONDS = 600
FULL, DISK = "full", "disk"


class Recorder:
    """Writes lines that ``client.bench --requests`` replays where they have token ids, into ``calls-DAY.jsonl``.

    Without ``tokens``, a line has what was measured and nothing of what was said. Days are those of UTC.
    """

    def __init__(
        self,
        folder: Path,
        variants: Sequence[str],
        registry: CollectorRegistry,
        *,
        days: int,
        tokens: bool,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._variants = variants
        self._days = days
        self._tokens = tokens
        self._now = now
        self._lock = threading.Lock()
        self._unrecorded = Counter(
            "qconf_shadow_unrecorded",
            "Mirrored calls that were scored and not recorded: the day's file is full, or the disk fails.",
            ["reason"],
            registry=registry,
        )
        for reason in (FULL, DISK):
            self._unrecorded.labels(reason)

    def record(self, entry: Entry, scored: Sequence[Scored]) -> None:
        """Append a comparison; whatever goes wrong is counted, and nothing is raised."""
        line = json.dumps(self._line(entry, scored), separators=(",", ":")).encode() + b"\n"
        path = self._folder / f"calls-{self._today().isoformat()}.jsonl"
        with self._lock:
            try:
                if path.exists() and path.stat().st_size + len(line) > MOST_BYTES:
                    self._unrecorded.labels(FULL).inc()
                    return
                # What users wrote is for the server's own user alone.
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as stream:
                    stream.write(line)
            except OSError as error:
                logger.warning("--shadow-record: a call is not recorded: %s", error.strerror)
                self._unrecorded.labels(DISK).inc()

    def tidy(self) -> None:
        """Delete the files of days that are too old."""
        oldest = self._today() - timedelta(days=self._days)
        for path in self._folder.iterdir():
            if (found := NAME.fullmatch(path.name)) and found[1] < oldest.isoformat():
                path.unlink()
                logger.info("--shadow-record: %s is older than %d days: deleted", path.name, self._days)

    async def keep(self) -> None:
        """Delete what is too old, again and again, whether calls come or not."""
        while True:
            try:
                await asyncio.to_thread(self.tidy)
            except OSError as error:
                logger.warning("--shadow-record: old files cannot be deleted: %s", error.strerror)
            await asyncio.sleep(TIDY_SECONDS)

    def _today(self) -> date:
        return datetime.fromtimestamp(self._now(), UTC).date()

    def _line(self, entry: Entry, scored: Sequence[Scored]) -> dict[str, Any]:
        mirrored = {
            "time": datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds"),
            "route": entry.route,
            "source": entry.source,
            "part": entry.to_score.part,
            "variants": {
                name: summary(each.rows).model_dump() for name, each in zip(self._variants, scored, strict=True)
            },
        }
        return {"mirrored": mirrored} | (_ids(scored[0]) if self._tokens else {})


def _ids(scored: Scored) -> dict[str, list[int]]:
    """Return the token ids of what was scored and of what stands before it; none where nothing was scored."""
    if len(scored.context) == 1 and not scored.continuations:
        return {}
    if scored.continuations:
        return {"prompt_token_ids": scored.context, "token_ids": scored.continuations[0].token_ids}
    return {"prompt_token_ids": scored.context[:1], "token_ids": scored.context[1:]}
