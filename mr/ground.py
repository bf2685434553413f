"""Where the servers of a local cluster stand. The plain ground is this machine's loopback interface.

Whoever wants them elsewhere (each in a network namespace, behind proxies, on a file system of its own) gives
`Cluster.spawn` another ground: it says under which addresses they listen, and how a process there is started.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mr.errors import Usage
from mr.processes import Server, free_ports


class Spot(NamedTuple):
    """One master's place in `--peers`."""

    host: str
    grpc: int
    raft: int


class Ground:
    """Loopback: every server on 127.0.0.1, every port free when it was chosen."""

    def spots(self, home: Path, masters: Sequence[str]) -> dict[str, Spot]:
        """A place for each master. A kept `home` remembers them: masters know each other by address.
        Raises Usage when `home` holds a cluster of another size."""
        kept = home / "ports.json"
        if kept.exists():
            ports: list[int] = json.loads(kept.read_text())
            if len(ports) != 2 * len(masters):
                raise Usage(
                    f"{home} holds a cluster of {len(ports) // 2} masters", next="take another folder"
                )
        else:
            ports = free_ports(2 * len(masters))
            kept.write_text(json.dumps(ports))
        return {name: Spot("127.0.0.1", ports[2 * n], ports[2 * n + 1]) for n, name in enumerate(masters)}

    def settle(self, server: Server) -> None:
        """Called once, before the first start of `server`: completes its command and environment, and may
        mount something at its folders."""
        if server.kind == "worker":
            server.argv += ["--listen", "127.0.0.1:0"]
