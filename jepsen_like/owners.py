"""Whose connection it is: every process of a cluster carries its node's name in the environment, and the kernel tells
whose socket a connection is. Needs no privilege, and takes long on a busy machine."""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path

from jepsen_like.leftovers import ENVIRONMENT, NODE

_LOOK_S = 0.5  # new processes are looked for this often
_STRANGER_S = 10.0  # between fork and exec a process has its parent's environment
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20  # linux/netlink.h, linux/sock_diag.h


class Owners:
    """Of the connections on this machine, among the processes of the harness `prefix`, itself among them."""

    def __init__(self, prefix: str) -> None:
        self.expected: set[str] = set()  # nodes that have a process, most of the time
        self._prefix = prefix
        self._harness = os.getppid()
        self._nodes: dict[int, str] = {}
        self._strangers: dict[int, float] = {}
        self._looked = 0.0

    def whose(self, near: tuple[str, int], far: tuple[str, int]) -> str:
        """The node that has the connection `near` -> `far` open; "" when no node has. Blocks for a while."""
        inode = socket_inode(near, far)
        if not inode or holds(self._harness, inode):
            return ""
        return next((node for pid, node in self._living() if holds(pid, inode)), "")

    def _living(self) -> list[tuple[int, str]]:
        """The nodes' processes. Looks for new ones only when one is missing: it takes a while."""
        alive = {pid: node for pid, node in self._nodes.items() if os.path.exists(f"/proc/{pid}")}
        if set(alive.values()) != self.expected and time.monotonic() > self._looked + _LOOK_S:
            alive = nodes(self._prefix, self._strangers)
            self._looked = time.monotonic()
        self._nodes = alive
        return list(alive.items())


def socket_inode(near: tuple[str, int], far: tuple[str, int]) -> int:
    """Of the TCP socket of this machine that is connected from `near` to `far`; 0 when there is none.

    Asks the kernel for this one (sock_diag(7), inet_diag_req_v2): reading /proc/net/tcp takes long on a busy machine.
    """
    ends = struct.pack("!HH", near[1], far[1])
    ends += socket.inet_aton(near[0]) + bytes(12) + socket.inet_aton(far[0]) + bytes(12)
    request = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFF) + ends
    request += struct.pack("=I", 0) + b"\xff" * 8  # any interface, no cookie
    header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, 1, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(2.0)
        try:
            kernel.send(header + request)
            answer = kernel.recv(4096)
        except OSError:
            return 0
    (kind,) = struct.unpack_from("=H", answer, 4)
    if kind != _SOCK_DIAG_BY_FAMILY:
        return 0
    (inode,) = struct.unpack_from("=I", answer, 16 + 4 + 48 + 16)
    return int(inode)


def nodes(prefix: str, strangers: dict[int, float]) -> dict[int, str]:
    """Process id -> node, of all processes of the harness `prefix`.

    `strangers` is kept between calls: when a process was first seen that is nobody's. It is looked at again for a
    while, as it may be about to become one, and then no more: a busy machine has hundreds.
    """
    found, now = {}, time.monotonic()
    there = {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}
    for gone in strangers.keys() - there:
        del strangers[gone]
    for pid in there:
        if now - strangers.get(pid, now) > _STRANGER_S:
            continue
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            words = []
        env = dict(word.split(b"=", 1) for word in words if b"=" in word)
        if env.get(ENVIRONMENT.encode()) == prefix.encode() and NODE.encode() in env:
            found[pid] = env[NODE.encode()].decode()
            strangers.pop(pid, None)
        else:
            strangers.setdefault(pid, now)
    return found


def holds(pid: int, inode: int) -> bool:
    """Whether the process has this socket open."""
    try:
        return any(os.readlink(entry.path) == f"socket:[{inode}]" for entry in os.scandir(f"/proc/{pid}/fd"))
    except OSError:
        return False
