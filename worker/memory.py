"""How much memory a task uses with all that it started: read from /proc, summed over the tree.

Resident memory first, because it is cheap; only a tree that seems to be over its limit is measured again by
proportional share, so that pages which forked processes share are not counted twice.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process tree."""

    processes: int
    resident_bytes: int


def children() -> dict[int, list[int]]:
    """Parent -> children, of every process on this machine. About 10 microseconds for each."""
    found: dict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split(maxsplit=2)[1])
            except (OSError, IndexError, ValueError):
                continue
            found[parent].append(int(name))
    return found


def below(root: int, tree: dict[int, list[int]]) -> list[int]:
    """Every process below `root`, parents first."""
    found = list(tree.get(root, ()))
    for pid in found:
        found += tree.get(pid, ())
    return found


def resident(pids: Iterable[int]) -> Usage:
    """Resident memory of these processes together; shared pages count several times."""
    count, pages = 0, 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                pages += int(file.read().split()[1])
        except (OSError, IndexError):
            continue
        count += 1
    return Usage(count, pages * _PAGE)


def proportional(pids: Iterable[int]) -> int:
    """Bytes of these processes together, each shared page counted once. Slow: milliseconds for each."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                total += next(int(line.split()[1]) << 10 for line in file if line.startswith(b"Pss:"))
        except (OSError, StopIteration):
            continue
    return total


def available() -> int:
    """Memory of this machine that is free for use, in bytes."""
    with open("/proc/meminfo", "rb") as file:
        sizes = dict(line.split(b":", 1) for line in file)
    return int(sizes[b"MemAvailable"].split()[0]) << 10


def total() -> int:
    """Memory of this machine, or of its container, in bytes."""
    with open("/proc/meminfo", "rb") as file:
        machine = int(file.readline().split()[1]) << 10
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, "rb") as file:
                return min(machine, int(file.read()))
        except (OSError, ValueError):
            continue
    return machine
