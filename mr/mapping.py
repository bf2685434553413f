"""`client.map(fn, items)`: a function over small things, as a map-only job that is written for the occasion.

The function is found again on the workers by module and name, so it must stand at the top level of a file. Items
and results pass through JSON lines in a folder that the workers see.
"""

from __future__ import annotations

import inspect
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mr.errors import Usage

if TYPE_CHECKING:
    from mr.client import Client

_JOB = '''"""Made by client.map: calls {name} of {module}.py on every item."""

import mr
import {module}


@mr.mapper("map.call")
def call(item):
    yield item[0], {module}.{name}(item[1])


job = mr.Job("map-{name}", [mr.step(call)], input=mr.jsonl(), output=mr.jsonl())
'''


def map_on(client: Client, fn: Callable[[Any], Any], items: list[Any], folder: Path) -> list[Any]:
    """The results in the order of `items`. Raises Usage for a function that workers could not find."""
    try:
        source = inspect.getsourcefile(fn)
    except TypeError:  # built in
        source = None
    name = getattr(fn, "__name__", "")
    if source is None or not name.isidentifier() or getattr(fn, "__qualname__", "") != name:
        raise Usage("client.map needs a named function at the top level of a file")
    module = Path(source).stem
    if not module.isidentifier():
        raise Usage(f"{Path(source).name} cannot be imported by that name")
    place = Path(tempfile.mkdtemp(prefix=".mr-map-", dir=folder)).absolute()
    try:
        job, data = place / "map_job.py", place / "items.jsonl"
        job.write_text(_JOB.format(module=module, name=name))
        data.write_text("".join(json.dumps([n, item]) + "\n" for n, item in enumerate(items)))
        handle = client.submit(job, [data], place / "out", py_files=[source], name=f"map-{name}")
        found = dict(tuple(pair) for pair in handle.results())
        return [found[n] for n in range(len(items))]
    finally:
        shutil.rmtree(place, ignore_errors=True)
