"""Map and reduce sides put together as a job does, without a cluster; and what must come out, worked out simply."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mr.codec import encode_key
from mr.partition import hash_partition
from mr.shuffle import segment
from mr.shuffle.buffer import MapBuffer
from mr.shuffle.merge import groups

JOB = "job-1"


class Run(NamedTuple):
    map: int
    attempt: int
    path: str
    offset: int
    length: int


def run_map(
    folder: Path, number: int, pairs: Iterable[Any], reduces: int = 1, **options: Any
) -> tuple[Path, MapBuffer]:
    folder.mkdir(parents=True, exist_ok=True)
    buffer = MapBuffer(folder, reduces, owner=segment.owner(JOB, 0, number, 1), **options)
    buffer.extend(pairs)
    path = folder / f"0.m-{number:05d}.a1.seg"
    buffer.finish(path)
    return path, buffer


def region(path: Path, number: int, partition: int = 0, attempt: int = 1) -> Run:
    index = segment.open_index(path)
    return Run(number, attempt, str(path), index.offsets[partition], index.lengths[partition])


def run_reduce(
    folder: Path, runs: Sequence[Run], partition: int = 0, **options: Any
) -> list[tuple[Any, list[Any]]]:
    found = groups(runs, folder, job=JOB, step=0, partition=partition, **options)
    return [(key, list(values)) for key, values in found]


def run_job(
    folder: Path, maps: Sequence[Sequence[Any]], reduces: int, **options: Any
) -> list[list[tuple[Any, list[Any]]]]:
    paths = [run_map(folder, i, pairs, reduces, **options)[0] for i, pairs in enumerate(maps)]
    merge = {name: options[name] for name in ("sort_values", "combine", "allow_pickle") if name in options}
    return [
        run_reduce(folder, [region(path, i, partition) for i, path in enumerate(paths)], partition, **merge)
        for partition in range(reduces)
    ]


def expected(maps: Sequence[Sequence[Any]], reduces: int) -> list[list[tuple[bytes, list[Any]]]]:
    """The same by a dict: keys by their encodings, values in (map, emission) order."""
    parts: list[dict[bytes, list[Any]]] = [defaultdict(list) for _ in range(reduces)]
    for pairs in maps:
        for key, value in pairs:
            name = encode_key(key)
            parts[hash_partition(name, reduces)][name].append(value)
    return [sorted(part.items()) for part in parts]


def encoded(parts: list[list[tuple[Any, list[Any]]]]) -> list[list[tuple[bytes, list[Any]]]]:
    return [[(encode_key(key), values) for key, values in part] for part in parts]
