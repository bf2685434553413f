"""How many files and sockets a process of the harness may have open: an ordinary user starts with few."""

from __future__ import annotations

import resource


def allow(wanted: int) -> None:
    """Raises this process's own limit to `wanted`, or as far as the hard limit lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
