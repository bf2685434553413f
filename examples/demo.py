"""The main job, end to end: three masters, four workers, real text, and a leader killed while maps run.

`make demo` runs this. It starts a cluster of its own on loopback with certificates it makes, counts the words of the
standard library's sources (repeated to about 50 MB), kills the leader with SIGKILL half-way, compares the output with
a count made in another way, and removes everything. It talks to the cluster as a user does: through the commands.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mr.client import Client
from mr.cluster import Cluster
from mr.errors import Error

CORPUS_BYTES = 50_000_000
CORPUS_FILES = 2_000
KILL_AT = 0.15  # of the maps are done when the leader dies


def sources() -> list[Path]:
    """Every .py of the standard library, without what somebody installed beside it."""
    library = Path(sysconfig.get_paths()["stdlib"])
    return sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)


def write_corpus(folder: Path) -> tuple[int, int]:
    """Copies the sources again and again until both bounds are reached; returns (files, bytes)."""
    texts = [text for path in sources() if (text := path.read_bytes())]
    files = size = 0
    while size < CORPUS_BYTES or files < CORPUS_FILES:
        for text in texts:
            if size >= CORPUS_BYTES and files >= CORPUS_FILES:
                break
            place = folder / f"{files // 500:02d}"
            place.mkdir(exist_ok=True)
            (place / f"{files:05d}.txt").write_bytes(text)
            files, size = files + 1, size + len(text)
    return files, size


def count_again(folder: Path) -> Counter[str]:
    """The same count by a regular expression and one dictionary: shares no code with the cluster."""
    words: Counter[str] = Counter()
    word = re.compile(r"\S+")
    for path in folder.rglob("*.txt"):
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")  # a byte order mark is no text
        words.update(token.lower() for token in word.findall(text))
    return words


def counted(output: Path) -> Iterator[tuple[str, int]]:
    """What the job wrote: key TAB value, one a line."""
    for part in sorted(output.glob("part-*")):
        for line in part.read_bytes().decode("utf-8", "surrogateescape").split("\n"):
            if line:
                key, _, value = line.rpartition("\t")
                yield unescape(key), int(value)


def unescape(key: str) -> str:
    """Undoes the one escape that the tsv format documents: a backslash before backslash, t, n or r."""
    return re.sub(r"\\(.)", lambda m: {"t": "\t", "n": "\n", "r": "\r"}.get(m[1], m[1]), key)


class LeaderKiller(threading.Thread):
    """Watches the job, kills the leader while maps run, and times how long the cluster has none."""

    def __init__(self, cluster: Cluster, job: str) -> None:
        super().__init__(daemon=True)
        self.cluster, self.job = cluster, job
        self.gap_s: float | None = None
        self.killed = ""

    def run(self) -> None:
        with self.cluster.connect() as client:
            while not maps_run(client, self.job):
                time.sleep(0.02)
        before = self.cluster.leader()
        assert before is not None, "maps run, so somebody leads"
        self.cluster.kill(before.id, signal.SIGKILL)
        died = time.monotonic()
        self.killed = before.id
        print(
            f"  --> SIGKILL to master {before.id}, leader of term {before.term}, while maps run", flush=True
        )
        while self.gap_s is None and time.monotonic() - died < 30:
            now = self.cluster.leader()
            # a leader of a newer term has committed its first own entry when its commit has moved on
            if now is not None and now.term > before.term and now.commit > before.commit:
                self.gap_s = time.monotonic() - died
            time.sleep(0.01)


def maps_run(client: Client, job: str) -> bool:
    """True once enough maps are done and others still wait."""
    try:
        maps = client.attach(job).status().steps[0].map
    except (Error, IndexError):  # not submitted yet
        return False
    return bool(maps.total and KILL_AT <= maps.completed / maps.total < 1)


def submit(cluster: Cluster, corpus: Path, output: Path, job: str) -> int:
    """`mr submit wordcount.py CORPUS -o OUT`, its progress shown as it comes."""
    wordcount = Path(__file__).with_name("wordcount.py")
    command = [sys.executable, "-m", "mr.cli", "submit", str(wordcount), str(corpus), "-o", str(output)]
    command += ["--id", job, "--split-size", "1MiB"]
    print("$ mr submit wordcount.py corpus -o out --split-size 1MiB")
    return subprocess.run(command, env=cluster.env(), check=False).returncode


def status(cluster: Cluster, job: str) -> dict[str, object]:
    """`mr status --json`: what the cluster says of the job afterwards."""
    command = [sys.executable, "-m", "mr.cli", "status", job, "--json"]
    text = subprocess.run(command, env=cluster.env(), check=True, capture_output=True, text=True).stdout
    found: dict[str, object] = json.loads(text)
    return found


def show_top(counts: Counter[str], most: int = 10) -> None:
    """The most frequent words, four columns."""
    print("top words: " + "   ".join(f"{word} {count:,}" for word, count in counts.most_common(most)))


def demo(home: Path) -> bool:
    """The whole story in `home`; True when the output is identical and nothing finished ran again."""
    corpus, output, job = home / "corpus", home / "out", "demo-wordcount"
    corpus.mkdir()
    files, size = write_corpus(corpus)
    print(f"text: {files:,} files, {size / 1e6:.1f} MB of Python sources")
    with Cluster.spawn(masters=3, workers=4, slots=1, home=home / "cluster") as cluster:
        print(
            f"cluster: {len(cluster.masters)} masters, {len(cluster.workers)} workers, mutual TLS, on loopback\n"
        )
        killer = LeaderKiller(cluster, job)
        killer.start()
        began = time.monotonic()
        code = submit(cluster, corpus, output, job)
        seconds = time.monotonic() - began
        killer.join(timeout=5)
        said = status(cluster, job)
    if code:
        print(f"mr submit exited with {code}")
        return False
    ours = Counter(dict(counted(output)))
    identical = ours == count_again(corpus)
    reruns = sum(said["reruns"].values())  # type: ignore[attr-defined]  # a JSON object of counts
    gap = f"{killer.gap_s:.2f}" if killer.gap_s is not None else "none"
    answer, total = ("yes", "identical") if identical else ("no", "NOT IDENTICAL"), sum(ours.values())
    print()
    show_top(ours)
    print(f"compared with an independent count of {total:,} words: {answer[1]}")
    print(f"failover gap {gap} s   finished tasks run again {reruns}   ", end="")
    print(f"attempts started {said['attempts']}   wall time {seconds:.1f} s")
    print(
        f"RESULT identical={answer[0]} gap_s={gap} reruns={reruns} "
        f"attempts={said['attempts']} seconds={seconds:.1f}"
    )
    return identical and reruns == 0 and killer.gap_s is not None


def main() -> int:
    """Runs the demo in a temporary folder and removes it, also after Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    home = Path(tempfile.mkdtemp(prefix="mapraft-demo-"))
    try:
        return 0 if demo(home) else 1
    except KeyboardInterrupt:
        print("\ninterrupted: the cluster is stopped and its files are removed", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
