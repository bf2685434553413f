"""Disk and clock faults for one living process, by the preloaded `shim.c`.

`build` compiles it once; a `Shim` is the control page of one process: put `env` into its environment when it
starts, and set the faults while it runs. Every fault has a counter, so that a run can prove that it struck.
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")

# The offsets of struct control in shim.c.
_SYNC_DELAY_US, _SYNC_ERRNO, _WRITE_ERRNO, _READ_ERRNO, _CLOCK_OFFSET_NS, _PREFIX = 0, 8, 12, 16, 24, 72
COUNTERS = {
    "syncs_delayed": 32,
    "syncs_failed": 40,
    "writes_failed": 48,
    "reads_failed": 56,
    "clocks_shifted": 64,
}


def build(directory: Path) -> Path:
    """Compiles the shim into `directory`. Raises CalledProcessError."""
    library = directory / "mr-shim.so"
    command = [
        "gcc",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(SOURCE),
        "-ldl",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return library


class Shim:
    """The faults of one process. File faults strike below the directory `prefix` only. With `source`, an address of
    loopback, its connections within loopback come from there."""

    def __init__(self, library: Path, control: Path, prefix: Path, source: str = "") -> None:
        self.env = {"LD_PRELOAD": str(library), "MR_SHIM_FILE": str(control)}
        if source:
            self.env["MR_SHIM_SOURCE"] = source
        with open(control, "w+b") as file:
            file.truncate(4096)
            self._page = mmap.mmap(file.fileno(), 4096)
        name = os.path.join(os.fsencode(prefix), b"")  # so that `d` does not strike `d.log`
        assert len(name) < 256, "the shim keeps 255 bytes of the prefix"
        self._page[_PREFIX : _PREFIX + len(name)] = name

    def delay_syncs(self, seconds: float) -> None:
        """Every fsync takes `seconds` longer; 0 heals."""
        struct.pack_into("<Q", self._page, _SYNC_DELAY_US, int(seconds * 1e6))

    def fail_syncs(self, error: int) -> None:
        """Every fsync fails with `error` (an errno); 0 heals."""
        struct.pack_into("<I", self._page, _SYNC_ERRNO, error)

    def fail_writes(self, error: int) -> None:
        """Every write fails with `error`; 0 heals."""
        struct.pack_into("<I", self._page, _WRITE_ERRNO, error)

    def fail_reads(self, error: int) -> None:
        """Every read fails with `error`; 0 heals."""
        struct.pack_into("<I", self._page, _READ_ERRNO, error)

    def shift_clock(self, seconds: float) -> None:
        """The wall clock is `seconds` ahead, or behind; the monotonic clock is left alone."""
        struct.pack_into("<q", self._page, _CLOCK_OFFSET_NS, int(seconds * 1e9))

    def count(self, counter: str) -> int:
        """How often a fault struck; `COUNTERS` has the names."""
        (value,) = struct.unpack_from("<Q", self._page, COUNTERS[counter])
        return int(value)

    def close(self) -> None:
        """Unmaps the control page."""
        self._page.close()
