"""What servers and tasks wrote down beside their work: audit lines of masters, what tasks that looked around saw."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jepsen_like.evidence import Audit, Peek

if TYPE_CHECKING:
    from mr.processes import Server


def audits(masters: Mapping[str, Server]) -> Iterator[Audit]:
    """Every line of the logger `mr.audit` in the masters' logs."""
    for id, server in masters.items():
        text = server.log.read_text(errors="replace") if server.log.is_file() else ""
        for row in text.splitlines():
            if '"mr.audit"' not in row and "mr.audit" not in row:
                continue
            try:
                line = json.loads(row)
            except json.JSONDecodeError:
                continue  # the process was killed while it wrote the line
            if not str(line.get("method", "")).startswith("/mr."):
                continue
            yield Audit(
                master=id,
                method=str(line["method"]).rpartition("/")[2],
                job=str(line.get("job", "")),
                identity=str(line.get("identity", "")),
                outcome=str(line.get("outcome", "")),
            )


def peeks(folder: Path, isolation: str) -> Iterator[Peek]:
    """What each task of a job that looks around could read: one file a task, named like a mark."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        job, task, *_ = path.name.split("~")
        yield Peek(job=job, task=task, isolation=isolation, found=path.read_text().splitlines())
