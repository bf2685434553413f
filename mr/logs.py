"""Logs of the servers: one line an event, text for eyes or JSON for machines, rotated when they go to a
folder.

JSON lines carry what was given as `extra` (job, task, attempt, worker, identity) as fields of their own
(S0-22). The logger `mr.audit` has one line for every call that changes state. No secret is ever given to a
logger (S5).
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

_ROTATE_BYTES = 32 << 20
_ROTATE_FILES = 5
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `at`, `level`, `logger`, `text`, the fields of the event, `traceback` if there
    is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "at": at,
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def setup(
    name: str,
    *,
    level: str = "info",
    style: Literal["text", "json"] = "text",
    folder: Path | None = None,
) -> None:
    """Sends all logs of this process to stderr, or to `folder/name.log`, rotated at 32 MiB, five kept. Raises
    OSError.
    """
    handler: logging.Handler
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            folder / f"{name}.log", maxBytes=_ROTATE_BYTES, backupCount=_ROTATE_FILES, encoding="utf-8"
        )
    else:
        handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s  %(message)s")
    handler.setFormatter(JsonFormatter() if style == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
