"""Small jobs that a fault submits itself, so that somebody comes to where it waits. They are not in the history."""

from __future__ import annotations

import itertools
import threading
from contextlib import suppress
from typing import Any

from jepsen_like import tasks
from jepsen_like.place import Place
from jepsen_like.workloads import ERRAND, Work, write_inputs
from mr import outcome, submit
from mr.errors import Error

_number = itertools.count()
LINES = 6_000  # so many keys that a map spills


def run(place: Place, shape: str, over: threading.Event) -> None:
    """One job of `shape` after the other, until `over`. Bounded by what a client waits for one call."""
    with place.connect(timeout=4.0) as client:
        while not over.is_set():
            with suppress(Error):
                prepared = _prepare(place, shape)
                submit.send(client.calls, prepared)
                while (
                    not over.wait(0.2) and outcome.state_name(_status(client, prepared)) not in outcome.OVER
                ):
                    pass


def _prepare(place: Place, shape: str) -> submit.Prepared:
    id = f"{ERRAND}-{shape}-{next(_number):04d}"
    home = place.home / "errands"
    (home / "jobs").mkdir(parents=True, exist_ok=True)
    work = Work(id=id, shape=shape, at_s=0, seed=1, files=2, lines=LINES, reduces=2)
    if not (home / shape).exists():
        write_inputs(work, home / shape)
    file = home / "jobs" / f"{shape}.py"
    file.write_text(tasks.source(shape))
    return submit.prepare(
        submit.Request(
            job_file=file,
            inputs=(str(home / shape),),
            output=str(home / "out" / id),
            id=id,
            flags={"name": ERRAND, "reduces": work.reduces, **work.flags},
        )
    )


def _status(client: Any, prepared: submit.Prepared) -> Any:
    return client.attach(prepared.spec.job_id).status()
