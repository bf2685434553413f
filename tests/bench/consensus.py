"""`make bench-consensus`: the numbers of consensus, beside stock pysyncobj in the same run, into
BENCHMARKS.md.

Three processes on loopback; ours with fsync and mutual TLS, stock with its journal file (no fsync) and plain
TCP. Each load is measured several times, ours and stock in turn, so that noise of the machine strikes both;
medians are stated, with the lowest and the highest run. Arguments: `--quick` for a look, `--minutes N` for
the false-election part.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mr import tls
from mr.cluster import Cluster as MasterCluster

ROOT = Path(__file__).parents[2]
LOADS = (  # name, bytes of a proposal, in flight, updates in a proposal
    ("100 B, 1 in flight", 100, 1, 1),
    ("100 B, 64 in flight", 100, 64, 1),
    ("100 B, 1,000 in flight", 100, 1000, 1),
    ("200 x 100 B, 16 in flight", 20_000, 16, 200),
)
IDS = ("a", "b", "c")


class Cluster:
    """Three node processes of one kind."""

    def __init__(self, kind: str, home: Path) -> None:
        self.kind = kind
        self.home = Path(tempfile.mkdtemp(prefix=kind, dir=home))
        self.options = {"dir": str(self.home), "peers": _addresses(), "tls": str(home / "tls")}
        self.processes: dict[str, subprocess.Popen[str]] = {}
        for node in IDS:
            self.start(node)
        for node in IDS:
            self.answer(node)

    def start(self, node: str) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.bench.consensus_node",
            node,
            self.kind,
            json.dumps(self.options),
        ]
        with open(self.home / f"{node}.log", "a") as log:
            self.processes[node] = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def tell(self, node: str, name: str, **arguments: Any) -> None:
        stdin = self.processes[node].stdin
        assert stdin
        stdin.write(json.dumps([name, arguments]) + "\n")
        stdin.flush()

    def answer(self, node: str) -> Any:
        stdout = self.processes[node].stdout
        assert stdout
        line = stdout.readline()
        if not line:
            raise SystemExit(f"{self.kind} {node} ended: {(self.home / f'{node}.log').read_text()[-2000:]}")
        return json.loads(line)

    def ask(self, node: str, name: str, **arguments: Any) -> Any:
        self.tell(node, name, **arguments)
        return self.answer(node)

    def statuses(self) -> dict[str, dict[str, Any]]:
        return {node: self.ask(node, "status") for node in IDS}

    def leader(self) -> str:
        """Waits until one leads, all know it, and all have applied nearly everything."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = self.statuses()
            leaders = [node for node in IDS if found[node]["leader"]]
            knowing = sum(status["known"] is not None for status in found.values())
            behind = max(s["last"] for s in found.values()) - min(s["applied"] for s in found.values())
            if len(leaders) == 1 and knowing == len(IDS) and behind < 100:
                return leaders[0]
            time.sleep(0.02)
        raise SystemExit(f"no leader of {self.kind} within a minute: {found}")

    def cpu(self) -> float:
        """Seconds of processor time that the members have used."""
        return sum(_cpu(process.pid) for process in self.processes.values())

    def kill(self, node: str) -> None:
        self.processes[node].kill()
        self.processes[node].wait()

    def close(self) -> None:
        for node in IDS:
            self.kill(node)
            for stream in (self.processes[node].stdin, self.processes[node].stdout):
                assert stream
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
        shutil.rmtree(self.home, ignore_errors=True)


@contextmanager
def cluster(kind: str, home: Path) -> Iterator[Cluster]:
    """A cluster that is gone afterwards, whatever happens."""
    made = Cluster(kind, home)
    try:
        yield made
    finally:
        made.close()


@dataclass
class Speed:
    """The runs of one load."""

    rates: list[float] = field(default_factory=list)
    p50s: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    failed: int = 0

    def add(self, result: dict[str, Any], cpu: float) -> None:
        taken = result["taken"]
        self.cpus.append(cpu / max(1, len(taken)) * 1e3)
        self.rates.append(len(taken) / result["elapsed"])
        self.p50s.append(_percentile(taken, 0.5) * 1e3)
        self.p99s.append(_percentile(taken, 0.99) * 1e3)
        self.failed += result["failed"]


def speeds(home: Path, runs: int, seconds: float) -> tuple[dict[tuple[str, str], Speed], float]:
    """Every load on ours and on stock, in turn; and which share of the machine others used meanwhile."""
    found: dict[tuple[str, str], Speed] = {}
    with cluster("ours", home) as ours, cluster("stock", home) as stock:
        for one in (ours, stock):
            one.ask(one.leader(), "load", size=100, inflight=64, seconds=1)  # warm
        mine = ours.cpu() + stock.cpu()
        busy, total = _machine()
        for run in range(runs):
            for name, size, inflight, _ in LOADS:
                for one in (ours, stock):
                    leader, before = one.leader(), one.cpu()
                    result = one.ask(leader, "load", size=size, inflight=inflight, seconds=seconds)
                    found.setdefault((name, one.kind), Speed()).add(result, one.cpu() - before)
                    speed = found[name, one.kind]
                    say(
                        f"run {run + 1} {one.kind:5} {name}: {speed.rates[-1]:,.0f}/s p50 {speed.p50s[-1]:.2f} ms"
                    )
        busy_after, total_after = _machine()
        others = busy_after - busy - (ours.cpu() + stock.cpu() - mine)
    return found, max(0.0, others / (total_after - total))


def failovers(kind: str, home: Path, trials: int) -> list[float]:
    """Seconds from SIGKILL of the leader to the first entry that another one has committed."""
    found = []
    with cluster(kind, home) as one:
        for _ in range(trials):
            leader = one.leader()
            one.ask(leader, "load", size=100, inflight=4, seconds=0.2)
            others = [node for node in IDS if node != leader]
            killed = time.time()
            one.processes[leader].kill()
            for node in others:
                one.tell(node, "commit")
            first = _first_to_answer(one, others)
            found.append(one.answer(first) - killed)
            # The other one still waits to lead: it is started anew, as the killed one is.
            for node in (leader, *(node for node in others if node != first)):
                one.kill(node)
                one.start(node)
                one.answer(node)
            if len(found) % 10 == 0:
                say(
                    f"{kind} failover {len(found)}: median {statistics.median(found):.3f} s, max {max(found):.3f} s"
                )
    return sorted(found)


def false_elections(home: Path, minutes: float) -> int:
    """Elections in a cluster under light load while every core is kept busy."""
    with cluster("ours", home) as one:
        leader = one.leader()
        term = one.ask(leader, "status")["term"]
        burners = [
            multiprocessing.get_context("spawn").Process(target=_burn, daemon=True)
            for _ in range(os.cpu_count() or 1)
        ]
        for burner in burners:
            burner.start()
        try:
            end = time.monotonic() + minutes * 60
            while time.monotonic() < end:
                one.ask(
                    leader, "load", size=100, inflight=1, seconds=min(10.0, max(0.1, end - time.monotonic()))
                )
        finally:
            for burner in burners:
                burner.kill()
                burner.join()
        return max(status["term"] for status in one.statuses().values()) - int(term)


def memory_and_snapshot(home: Path, tasks: int) -> dict[str, Any]:
    """Resident memory idle and with a log; the longest pause while a snapshot is taken."""
    with cluster("ours", home) as one:
        leader = one.leader()
        found: dict[str, Any] = {"idle": one.ask(leader, "memory")["rss"]}
        one.ask(leader, "load", size=100, inflight=256, seconds=5)
        status = one.ask(leader, "status")
        found |= {"entries": status["last"], "with_log": one.ask(leader, "memory")["rss"]}
    with cluster("ours", home) as one:
        leader = one.leader()
        one.ask(leader, "fill", tasks=tasks)
        runs = [one.ask(one.leader(), "snapshot") for _ in range(3)]
        return found | {"snapshots": runs, "with_tasks": one.ask(leader, "memory")["rss"]}


def idle_master() -> int:
    """Resident bytes of an mr-master, the largest of three, that has nothing to do."""
    with MasterCluster.spawn(masters=3, workers=0) as one:
        time.sleep(3.0)
        return max(_resident(master.pid) for master in one.masters.values())


def main() -> None:
    """Measures everything and rewrites the section of BENCHMARKS.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few short runs; writes nothing")
    parser.add_argument("--minutes", type=float, default=3.0, help="of both cores busy (default 3)")
    options = parser.parse_args()
    began = time.time()
    home = Path(tempfile.mkdtemp(prefix="bench-consensus-"))
    try:
        tls.init(home / "tls")
        speed, others = speeds(home, 1 if options.quick else 5, 2.0)
        ours = failovers("ours", home, 5 if options.quick else 50)
        stock = failovers("stock", home, 2 if options.quick else 10)
        rest = memory_and_snapshot(home, 200_000) | {"master": idle_master()}
        minutes = 0.2 if options.quick else options.minutes
        elections = false_elections(home, minutes)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    text = (
        report(speed, others, ours, stock, rest, minutes, elections)
        + f"\nTook {time.time() - began:.0f} s.\n"
    )
    print(text)
    if not options.quick:
        write_section(ROOT / "BENCHMARKS.md", "Consensus", text)


def report(
    speed: dict[tuple[str, str], Speed],
    others: float,
    ours: list[float],
    stock: list[float],
    rest: dict[str, Any],
    minutes: float,
    elections: int,
) -> str:
    """The section as Markdown."""
    mib = 1 << 20
    lines = [
        f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} shared cores, Linux {platform.release()}, Python"
        f" {platform.python_version()}, three processes and the load on the same cores,"
        f" of which other work used {others:.0%} meanwhile. Ours: fsync on RocksDB, mutual TLS."
        " Stock: pysyncobj 0.3.17 with its defaults and its journal file, no fsync, plain TCP."
        " Median of the runs (lowest to highest).",
        "",
        "| proposals | ours, per second | p50 ms | p99 ms | CPU ms"
        " | stock, per second | p50 ms | p99 ms | CPU ms | target |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    targets = ("p50 <= 2 ms", ">= 10,000/s", "", ">= 200,000 updates/s")
    for (name, _, _, updates), target in zip(LOADS, targets, strict=True):
        cells = [name]
        for kind in ("ours", "stock"):
            one = speed[name, kind]
            rate = _spread([r * updates for r in one.rates], 0) + (" updates" if updates > 1 else "")
            cells += [rate, _spread(one.p50s, 2), _spread(one.p99s, 1), f"{statistics.median(one.cpus):.2f}"]
        lines.append(f"| {' | '.join([*cells, target])} |")
    failed = {kind: sum(s.failed for (_, k), s in speed.items() if k == kind) for kind in ("ours", "stock")}
    pauses = [run["pause"] * 1e3 for run in rest["snapshots"]]
    lines += [
        "",
        "CPU: processor time of the three members and the load together, for one proposal. "
        f"Proposals that failed: ours {failed['ours']}, stock {failed['stock']}.",
        "",
        "| | ours | stock | target |",
        "| --- | --- | --- | --- |",
        f"| failover p50, s ({len(ours)} and {len(stock)} trials) | {_percentile(ours, 0.5):.3f}"
        f" | {_percentile(stock, 0.5):.3f} | <= 0.4 |",
        f"| failover p99, s | {_percentile(ours, 0.99):.3f} | {_percentile(stock, 0.99):.3f} | <= 1.0 |",
        f"| false elections in {minutes:g} min of all cores busy | {elections} | | 0 |",
        f"| longest pause of the leader's loop, snapshot of 200,000 tasks, ms | {_spread(pauses, 0)} | | <= 100 |",
        f"| size of that snapshot, MiB; seconds | {rest['snapshots'][0]['size'] / mib:.1f};"
        f" {statistics.median(run['seconds'] for run in rest['snapshots']):.2f} | | |",
        f"| resident memory of an idle mr-master, MiB | {rest['master'] / mib:.0f} | | |",
        f"| of an idle member without the rest of a master, MiB | {rest['idle'] / mib:.0f} | | |",
        f"| with {rest['entries']:,} entries of 100 B in the log, MiB | {rest['with_log'] / mib:.0f} | | |",
        f"| with a job of 200,000 tasks, MiB | {rest['with_tasks'] / mib:.0f} | | |",
    ]
    return "\n".join(lines) + "\n"


def write_section(path: Path, title: str, text: str) -> None:
    """Replaces the section `## title` of a Markdown file, or adds it at the end."""
    content = path.read_text() if path.exists() else "# Benchmarks\n"
    head, found, tail = content.partition(f"\n## {title}\n")
    rest = tail.partition("\n## ") if found else ("", "", "")
    after = f"\n## {rest[2]}" if rest[1] else ""
    path.write_text(f"{head.rstrip()}\n\n## {title}\n\n{text.rstrip()}\n{after}")


def say(text: str) -> None:
    """Progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def _addresses() -> dict[str, str]:
    sockets = [socket.socket() for _ in IDS]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = {node: f"127.0.0.1:{one.getsockname()[1]}" for node, one in zip(IDS, sockets, strict=True)}
    for one in sockets:
        one.close()
    return found


def _first_to_answer(one: Cluster, nodes: list[str]) -> str:
    with selectors.DefaultSelector() as selector:
        for node in nodes:
            stdout = one.processes[node].stdout
            assert stdout
            selector.register(stdout, selectors.EVENT_READ, node)
        ready = selector.select(30)
        if not ready:
            raise SystemExit(f"no new leader of {one.kind} within 30 s")
        return str(ready[0][0].data)


def _cpu(process: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _machine() -> tuple[float, float]:
    """Seconds that all cores were busy (stolen time included), and that there were."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    total, ticks = sum(fields), os.sysconf("SC_CLK_TCK")
    return (total - fields[3] - fields[4]) / ticks, total / ticks


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def _spread(values: list[float], digits: int) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def _burn() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
