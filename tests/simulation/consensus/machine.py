"""What the simulated cluster replicates: registers, the names of the commands applied, and a digest of it
all."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

from tests.simulation.consensus.checks import Checker


class Registers:
    """Commands are JSON: [name, key, action, value]; `name` is unique. Returns what the action answers."""

    def __init__(self, member: str, checker: Checker) -> None:
        self.member, self.checker = member, checker
        self.values: dict[str, Any] = {}
        self.names: list[str] = []
        self.digest = "0"
        self.index = 1

    def apply(self, index: int, command: bytes) -> Any:
        name, key, action, value = json.loads(command)
        self.digest = f"{zlib.crc32(command, int(self.digest, 16)):x}"
        self.checker.applied(self.member, index, self.index, self.digest, name)
        self.index = index
        self.names.append(name)
        if action == "cas":
            old, new = value
            if self.values.get(key) != old:
                return False
            self.values[key] = new
            return True
        self.values[key] = value
        return None

    def snapshot(self) -> Callable[[], bytes]:
        state = [dict(self.values), list(self.names), self.digest, self.index]
        return lambda: json.dumps(state).encode()

    def restore(self, data: bytes) -> None:
        self.values, self.names, self.digest, self.index = json.loads(data)
