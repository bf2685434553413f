"""What a published output holds: its manifest, and its pairs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mr.formats import output_format
from mr.output import MANIFEST


def read_manifest(out: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a published output. Raises FileNotFoundError, ValueError."""
    content: dict[str, Any] = json.loads(Path(out, MANIFEST).read_bytes())
    return content


def read_results(
    out: str | os.PathLike[str], format: str = "", options: Mapping[str, str] | None = None
) -> Iterator[tuple[Any, Any]]:
    """The pairs of a published output, part by part, as far as its format keeps them.

    `format` and `options` are those of the manifest unless given. Raises FileNotFoundError where nothing is
    published.
    """
    manifest = read_manifest(out)
    reader = output_format(format or manifest["format"], manifest["options"] if options is None else options)
    for file in manifest["files"]:
        if file["name"].startswith("part-"):
            yield from reader.results(os.path.join(out, file["name"]))
