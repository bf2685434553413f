"""Some `member` processes, and a client that behaves: it repeats a request until it is answered."""

from __future__ import annotations

import itertools
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepsen_like.net import Network
from jepsen_like.shim import Shim, build
from mr import tls

ROOT = Path(__file__).parents[3]
IDS = ("a", "b", "c")
WAIT_S = 60.0  # everybody may be starting at once on a busy machine
FIRST_GROUP = 47_100


class Gone(Exception):
    """The process ended before it answered."""


class Process:
    """One member's process."""

    def __init__(
        self,
        me: str,
        options: dict[str, Any],
        env: dict[str, str],
        group: int | None,
        before: Sequence[str] = (),
    ) -> None:
        self.me = me
        self.log = Path(options["dir"]) / f"{me}.log"
        command = [
            *before,
            sys.executable,
            "-m",
            "tests.integration.consensus.member",
            me,
            json.dumps(options),
        ]
        with open(self.log, "a") as log:
            self.popen = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | env,
                group=group,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._numbers = itertools.count()
        self._waiting: dict[int, queue.SimpleQueue[Any]] = {}
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, do: str, *, within_s: float = WAIT_S, **fields: Any) -> dict[str, Any]:
        """The reply to one request. Raises Gone."""
        replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = replies
            try:
                assert self.popen.stdin
                self.popen.stdin.write(json.dumps({"n": number, "do": do, **fields}) + "\n")
                self.popen.stdin.flush()
            except (BrokenPipeError, ValueError):
                raise Gone(self.me) from None
        if not self._reader.is_alive():
            raise Gone(self.me)
        try:
            reply = replies.get(timeout=within_s)
        except queue.Empty:
            raise Gone(f"{self.me} did not answer {do} within {within_s} s") from None
        if reply is None:
            raise Gone(self.me)
        return reply

    def kill(self) -> None:
        """SIGKILL, and the end of it."""
        self.popen.kill()
        self.wait()

    def leave(self) -> None:
        """An orderly end."""
        assert self.popen.stdin
        with self._lock:
            self.popen.stdin.close()
        self.wait()

    def wait(self) -> int:
        """Its exit status."""
        status = self.popen.wait(WAIT_S)
        self._reader.join(WAIT_S)
        for stream in (self.popen.stdin, self.popen.stdout):
            assert stream
            try:
                stream.close()
            except BrokenPipeError:
                pass
        return status

    def _read(self) -> None:
        assert self.popen.stdout
        for line in self.popen.stdout:
            reply = json.loads(line)
            self._waiting.pop(reply["n"]).put(reply)
        for replies in list(self._waiting.values()):
            replies.put(None)


class Cluster:
    """Members by id; those that are not running are not in `processes`. In a `network` each has a namespace."""

    def __init__(
        self,
        home: Path,
        *,
        shims: bool = False,
        groups: bool = False,
        ids: Sequence[str] = IDS,
        network: Network | None = None,
        before: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.home, self.ids, self.network, self.before = home, tuple(ids), network, before
        # A group of its own for every member's packets, so that a firewall can tell them apart (root only).
        self.groups = {me: FIRST_GROUP + number if groups else None for number, me in enumerate(self.ids)}
        tls.init(home / "tls", masters=self.ids)
        peers = {me: f"{network.addresses[me]}:7071" for me in self.ids} if network else _addresses(self.ids)
        self.options = {"dir": str(home), "peers": peers, "tls": str(home / "tls"), **options}
        self.shims: dict[str, Shim] = {}
        if shims:
            library = build(home)
            self.shims = {me: Shim(library, home / f"{me}.shim", home / me) for me in self.ids}
        self.processes: dict[str, Process] = {}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.popen.send_signal(signal.SIGCONT)
            process.kill()
        for shim in self.shims.values():
            shim.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self, *members: str, **options: Any) -> None:
        """Starts members (all by default), with other options if given."""
        for me in members or self.ids:
            env = self.shims[me].env if me in self.shims else {}
            before = self.network.command(me) if self.network else self.before
            self.processes[me] = Process(me, self.options | options, env, self.groups[me], before)

    def kill(self, *members: str) -> None:
        """SIGKILL."""
        for me in members or tuple(self.processes):
            self.processes.pop(me).kill()

    def leave(self, me: str) -> None:
        """An orderly end of one member."""
        self.processes.pop(me).leave()

    def status(self, me: str) -> dict[str, Any]:
        """What a member says of itself."""
        found: dict[str, Any] = self.processes[me].ask("status")["ok"]
        return found

    def leader(self) -> str:
        """Waits until one of the running members leads."""

        def found() -> str | None:
            statuses = {me: self.status(me) for me in self.processes}
            leaders = [me for me, status in statuses.items() if status["role"] == "leader"]
            return max(leaders, key=lambda me: statuses[me]["term"]) if leaders else None

        return until(found, "a leader")

    def terms(self) -> int:
        """The highest term anyone knows."""
        return max(self.status(me)["term"] for me in self.processes)

    def propose(self, command: str, *, within_s: float = WAIT_S) -> Any:
        """As a client does it: to whoever leads, again under the same id until it is answered."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for process in list(self.processes.values()):
                try:
                    reply = process.ask("propose", command=command, timeout_s=2.0)
                except Gone:
                    continue
                if "ok" in reply:
                    return reply["ok"]
            time.sleep(0.02)
        raise AssertionError(f"{command!r} was not committed within {within_s} s")

    def converged(self) -> dict[str, Any]:
        """Waits until all running members have the same state; returns it (C6)."""

        def same() -> Any:
            states = [process.ask("state")["ok"] for process in self.processes.values()]
            return states[0] if all(state == states[0] for state in states) else None

        return until(same, "equal states")


def until(found: Any, what: str, *, within_s: float = WAIT_S) -> Any:
    """Asks `found` until it says something. Fails after a while."""
    deadline = time.monotonic() + within_s
    while not (result := found()):
        assert time.monotonic() < deadline, f"no {what} within {within_s} s"
        time.sleep(0.05)
    return result


def _addresses(ids: Sequence[str]) -> dict[str, str]:
    sockets = [socket.socket() for _ in ids]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = {me: f"127.0.0.1:{one.getsockname()[1]}" for me, one in zip(ids, sockets, strict=True)}
    for one in sockets:
        one.close()
    return found
