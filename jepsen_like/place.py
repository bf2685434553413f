"""The attacked cluster: real masters and workers, each on a network and a disk that can be hurt.

Two kinds. `netns`: every node in a network namespace with its own address (root). `proxy`: every node on a loopback
address of its own and every connection through a proxy (no root, and less can be hurt: `abilities` says what).
Everything made is in a marker file and goes when the place stops, or its process is killed, or the next one starts.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jepsen_like import cpu, leftovers, net, shim
from jepsen_like.control import Control
from jepsen_like.leftovers import ENVIRONMENT, NODE, Marker
from jepsen_like.links import DATA, GRPC, RAFT, Links, NetLinks, ProxyLinks, ports
from jepsen_like.lossy import LossyDisk
from jepsen_like.lossy import possible as lossy_possible
from jepsen_like.net import Network
from jepsen_like.proxy import Gate, ProxyProcess
from jepsen_like.shim import Shim
from mr.cluster import Cluster, Leader
from mr.errors import Error
from mr.ground import Ground, Spot
from mr.processes import Server

if TYPE_CHECKING:
    from mr.client import Client

# So short that snapshots, trimmed logs and transfers of them happen within a run.
SETTINGS = {"MR_MASTER__SNAPSHOT_EVERY": "300"}
_TMPFS_BYTES = 192 << 20
_OUTPUT_BYTES = 96 << 20


class Place(Ground):
    """One cluster, made to be attacked. Use `Place.build`, as a context manager."""

    cluster: Cluster
    links: Links

    def __init__(self, kind: str, home: Path | None, seed: int, launcher: Sequence[str]) -> None:
        self.kind = kind
        self.seed = seed
        self.marker = Marker()
        self.temporary = home is None
        prefix = f"{self.marker.prefix}-"
        self.home = Path(tempfile.mkdtemp(prefix=prefix)) if home is None else home.absolute()
        if self.temporary:
            self.marker.add("folder", self.home)
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self.abilities: dict[str, str] = {}  # what is possible -> "", or why it is not
        self.shims: dict[str, Shim] = {}
        self.controls: dict[str, Control] = {}
        self.disks: dict[str, LossyDisk] = {}
        self.small: dict[str, Path] = {}  # workers whose scratch is a small tmpfs
        self.outputs: Path | None = None  # where jobs publish, if that is a small tmpfs
        self.addresses: dict[str, str] = {}
        self.replaced: set[str] = set()  # masters whose disk was taken away
        self._launcher = list(launcher)
        self._network: Network | None = None
        self._proxies = ProxyProcess(self.marker.prefix, seed)
        self._library: Path | None = None

    @classmethod
    def build(
        cls,
        masters: int = 3,
        workers: int = 4,
        *,
        kind: str = "auto",
        home: Path | None = None,
        seed: int = 0,
        slots: int = 1,
        launcher: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        lossy: bool = True,
        outputs: Path | None = None,
        timeout: float = 90.0,
    ) -> Place:
        """Starts everything and returns when all workers are attached.

        `kind` is "netns", "proxy", or "auto": netns when this machine can. `launcher` is put between
        `python -m` and the module of each server. `settings` are environment variables of the servers. `lossy` puts
        the masters' state on a file system that can lose power. `outputs` is where jobs will publish: it is made, on a
        file system of its own that can be filled, if possible. Raises OSError or mr.Error.
        """
        leftovers.sweep_dead()
        if kind == "auto":
            kind = "proxy" if net.possible() else "netns"
        place = cls(kind, home, seed, launcher)
        try:
            place._explore(lossy)
            if outputs is not None:
                place._publish_into(outputs)
            env = {**SETTINGS, **(settings or {}), ENVIRONMENT: place.marker.prefix}
            place.cluster = Cluster.spawn(
                masters,
                workers,
                slots=slots,
                home=place.home,
                env=env,
                ground=place,
                timeout=timeout,
                master_args=("--log-format", "json"),
                worker_args=("--log-format", "json"),
            )
        except BaseException:
            place.stop()
            raise
        return place

    @property
    def masters(self) -> dict[str, Server]:
        """By id."""
        return self.cluster.masters

    @property
    def workers(self) -> dict[str, Server]:
        """By id."""
        return self.cluster.workers

    @property
    def servers(self) -> dict[str, Server]:
        """Masters and workers."""
        return self.cluster.servers

    def server(self, id: str) -> Server:
        """The node of that name. Raises KeyError."""
        return self.servers[id]

    def start(self, id: str, *, tries: int = 3) -> Server:
        """Starts a node if it does not run. Raises Error when it does not come up."""
        with self._locks[id]:
            server = self.server(id)
            usual = server.argv
            for attempt in range(1, tries + 1):
                if server.alive:
                    break
                try:
                    server.argv = [*usual, "--replace"] if id in self.replaced else usual
                    self.cluster.restart(id)
                except Error:
                    if attempt == tries:
                        raise
                    time.sleep(1.0)
                finally:
                    server.argv = usual
            return server

    def replace(self, id: str) -> Server:
        """Gives a master an empty disk. From now on, whoever starts it says that its old one was lost: it may die again
        before it has heard who the others are. Raises Error when it does not come up."""
        with self._locks[id]:
            self.kill(id)
            empty(self.server(id).data_dir)
            self.replaced.add(id)
            return self.start(id)

    def kill(self, id: str, sig: int = signal.SIGKILL) -> dict[str, Any]:
        """Sends a signal; says to which process, and what became of it if it is to die."""
        with self._locks[id]:
            server = self.server(id)
            pid, lived = server.pid, server.alive
            self.cluster.kill(id, sig)
            status = server.process.poll() if server.process else None
            return {"node": id, "pid": pid, "lived": lived, "signal": int(sig), "status": status}

    def hold(self, id: str) -> threading.RLock:
        """While it is held, nobody else starts or signals that node."""
        return self._locks[id]

    def revive(self) -> list[str]:
        """Every node that should run runs. Returns those that were down and are up, `!id` for those that are not."""
        done = []
        for id, server in self.servers.items():
            if not server.alive:
                try:
                    self.start(id)
                    done.append(id)
                except Error as error:
                    done.append(f"!{id}: {error}")
        return done

    def leader(self, timeout: float = 0.3) -> Leader | None:
        """Who leads now, by its own account; None when nobody who can be asked does."""
        return self.cluster.leader(timeout)

    def env(self) -> dict[str, str]:
        """For a subprocess that runs `mr` against this cluster; it does not carry the mark of a node."""
        return {key: value for key, value in self.cluster.env().items() if key != NODE}

    def connect(self, **options: Any) -> Client:
        """A client of this cluster."""
        return self.cluster.connect(**options)

    def keep_outputs(self) -> None:
        """What was published stays in its folder also when that file system is gone."""
        if self.outputs is None:
            return
        aside = self.outputs.with_name("published")
        shutil.copytree(self.outputs, aside, symlinks=True)
        subprocess.run(["umount", "-l", str(self.outputs)], check=True)
        self.outputs.rmdir()
        aside.rename(self.outputs)
        self.outputs = None

    def stop(self) -> None:
        """Nothing of it is left; a given `home` stays, without mounts. Idempotent."""
        self._proxies.close()
        if hasattr(self, "cluster"):
            self.cluster.stop()
        for page in self.shims.values():
            page.close()
        for control in self.controls.values():
            control.close()
        self.shims.clear()
        self.controls.clear()
        self.marker.sweep()
        for disk in self.disks.values():
            disk.close()

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # What Cluster.spawn asks of a ground.

    def spots(self, home: Path, masters: Sequence[str]) -> dict[str, Spot]:  # noqa: ARG002 - new addresses each time
        """See Ground. Also makes the network."""
        if self.kind == "netns":
            self._network = Network(self.marker, ())
            for name in masters:
                self._network.add(name)
            self.addresses = self._network.addresses
            self.links = NetLinks(self._network, masters, self._proxies)
        else:
            self._block = _loopback_block()
            for name in masters:
                self._add_loopback(name)
            self.links = ProxyLinks(self._proxies, self.addresses)
        for name in masters:
            if self._network is None:
                self._open_gates(name, master=True)
        return {name: Spot(self.addresses[name], GRPC, RAFT) for name in masters}

    def settle(self, server: Server) -> None:
        """See Ground."""
        is_master = server.kind == "master"
        server.home.mkdir(parents=True, exist_ok=True)
        if server.id not in self.addresses:
            if self._network is not None:
                self._network.add(server.id)
            else:
                self._add_loopback(server.id)
                self._open_gates(server.id, master=False)
        own = self._own_address(server.id)
        if is_master:
            server.argv += ["--listen", f"{own}:{GRPC}", "--advertise", f"{self.addresses[server.id]}:{GRPC}"]
        else:
            server.argv += ["--listen", f"{own}:{DATA}", "--advertise", f"{self.addresses[server.id]}:{DATA}"]
        page = server.home / "control"
        self.controls[server.id] = Control(page)
        # python -P -m MODULE … becomes python -P -m LAUNCHER … MODULE …
        server.argv[3:3] = ["jepsen_like.failpoints", str(page), *self._launcher]
        if self._network is not None:
            server.argv[:0] = self._network.command(server.id)
        server.env = {**server.env, NODE: server.id, **self._disk(server)}

    def _own_address(self, id: str) -> str:
        """Where it really listens: behind its proxies, its host number is 100 higher."""
        if self._network is not None:
            return self.addresses[id]
        block, _, host = self.addresses[id].rpartition(".")
        return f"{block}.{int(host) + 100}"

    def _add_loopback(self, id: str) -> None:
        self.addresses[id] = f"{self._block}.{len(self.addresses) + 1}"

    def _open_gates(self, id: str, *, master: bool) -> None:
        for port in ports(master):
            listen, target = (self.addresses[id], port), (self._own_address(id), port)
            self._proxies.open(Gate(listen=listen, target=target, to=id, seen=self._library is not None))

    def _disk(self, server: Server) -> dict[str, str]:
        """Mounts what the node's state lies on; returns what its environment needs."""
        is_master = server.kind == "master"
        state = server.data_dir if is_master else server.work_dir
        state.mkdir(exist_ok=True)
        if is_master and not self.abilities["lossy"]:
            self.disks[server.id] = LossyDisk(self.marker, self.home / "lossyfs", server.home / "disk", state)
        elif not is_master and not self.abilities["tmpfs"] and not self.small:
            self.marker.add("mount", state)
            _mount_tmpfs(state, _TMPFS_BYTES)
            self.small[server.id] = state
        if self._library is None:
            return {}
        source = "" if self._network is not None else self._own_address(server.id)
        self.shims[server.id] = Shim(self._library, server.home / "shim", state, source)
        return self.shims[server.id].env

    def _publish_into(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not self.abilities["tmpfs"]:
            self.marker.add("mount", folder)
            _mount_tmpfs(folder, _OUTPUT_BYTES)
            self.outputs = folder

    def _explore(self, lossy: bool) -> None:
        """Fills in the abilities and compiles what is compiled."""
        no_root = "" if os.geteuid() == 0 else "not root"
        self.abilities["netns"] = "" if self.kind == "netns" else net.possible() or "behind proxies"
        self.abilities["tmpfs"] = no_root
        self.abilities["cpu"] = cpu.possible()
        compiler = "" if shutil.which("gcc") else "no gcc here"
        self.abilities["shim"] = compiler
        if not compiler:
            self._library = shim.build(self.home)
        self.abilities["lossy"] = (lossy_possible(self.home) if lossy else "not wanted") or compiler


def _mount_tmpfs(where: Path, size: int) -> None:
    options = f"size={size},nr_inodes=20000,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "mr-chaos", str(where)], check=True)


def _loopback_block() -> str:
    """Three octets of loopback that nobody uses: the ports are the same in all, so one tells."""
    while True:
        block = f"127.{random.randrange(2, 250)}.{random.randrange(1, 250)}"
        with socket.socket() as probe:
            try:
                probe.bind((f"{block}.1", GRPC))
            except OSError:
                continue
            return block


def empty(folder: Path) -> None:
    """Removes what is in it; it may be a mount."""
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
