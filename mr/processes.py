"""One server process of a local cluster: how it is started, found again and read."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mr.errors import Error

_PORTS = range(20_000, 32_000)  # below the kernel's default range for outgoing connections


@dataclass(slots=True)
class Server:
    """One process of a cluster. `address`, `raft` and `http` are what its first line said."""

    id: str
    kind: str  # "master" or "worker"
    home: Path
    argv: list[str]
    env: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    address: str = ""
    raft: str = ""
    http: str | None = None
    starts: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """Of the newest start; 0 before the first."""
        return self.process.pid if self.process else 0

    @property
    def alive(self) -> bool:
        """Started and not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> Path:
        """What it wrote to stderr, over all its lives."""
        return self.home / "log"

    @property
    def data_dir(self) -> Path:
        """A master's state."""
        return self.home / "data"

    @property
    def work_dir(self) -> Path:
        """A worker's scratch."""
        return self.home / "work"

    def start(self) -> None:
        """Starts the process; `await_first_line` tells when it listens."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.starts += 1
        with self._stdout.open("wb") as out, self.log.open("ab") as err:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=dict(self.env),
                start_new_session=True,
            )

    def await_first_line(self, deadline: float) -> None:
        """Takes over the addresses of the first line. Raises Error with the end of the log if it never
        comes."""
        while True:
            ended = not self.alive
            line, newline, _ = self._stdout.read_bytes().partition(b"\n")
            if newline:
                break
            if ended or time.monotonic() > deadline:
                what = (
                    f"ended with status {self.process and self.process.returncode}" if ended else "is silent"
                )
                raise Error(f"{self.kind} {self.id} {what}", next=f"its log says: {self.log_tail()}")
            time.sleep(0.01)
        self.facts = json.loads(line)
        self.address = self.facts.get("grpc") or self.facts.get("data") or ""
        self.raft = self.facts.get("raft") or ""
        self.http = self.facts.get("http")

    def log_tail(self, lines: int = 15) -> str:
        """The end of the log."""
        return (
            "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""
        )

    @property
    def _stdout(self) -> Path:
        return self.home / f"stdout.{self.starts}"


def python(module: str) -> list[str]:
    """How a module of ours is started."""
    # -P: a `master.py` in the current folder must not be taken for ours
    return [sys.executable, "-P", "-m", module]


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now. All are held while choosing, so they differ."""
    held: list[socket.socket] = []
    try:
        for port in random.sample(_PORTS, len(_PORTS)):
            if len(held) == count:
                break
            candidate = socket.socket()
            try:
                candidate.bind(("127.0.0.1", port))
                held.append(candidate)
            except OSError:
                candidate.close()
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()
