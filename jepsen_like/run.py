"""One run: build a cluster, let clients work while faults hurt, heal, let it calm down, gather evidence, judge, report.

Everything that decides what happens is in `RunConfig`; the same config gives the same jobs and the same schedule of
faults. DIR gets history.jsonl, run.json, evidence.json, verdict.json and report.html; the cluster's logs stay in
DIR/cluster, and everything else of it is removed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from jepsen_like import checkers, evidence, faults, nemesis, probes, report, traces, workloads
from jepsen_like.clients import SECRET, Clients
from jepsen_like.collect import Collector, kill_all
from jepsen_like.evidence import Evidence
from jepsen_like.faults_state import await_together
from jepsen_like.history import Event, History
from jepsen_like.nemesis import Step
from jepsen_like.place import SETTINGS, Place
from jepsen_like.registers import Registers
from jepsen_like.scenes import Scenes
from jepsen_like.storm import Storm
from jepsen_like.verdict import Outcome, Verdict
from jepsen_like.watcher import Reader, Watcher
from jepsen_like.workloads import Work
from mr.errors import Error, Usage

if TYPE_CHECKING:
    from mr.client import Client

# From the last heal until every job must have ended (T12), at least; see `calm_s`.
CALM_S = 120.0
OWN_LOAD = 3.0  # processes a processor: more than one cluster in its storm was ever seen to want on two
SLOWEST = 5.0
# From the calm's end until every master has all that the leader has, and every worker its session.
TOGETHER_S = 30.0
WORKING = frozenset({"active", "excluded"})  # one that failed too often is spared for minutes, on purpose
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What a run is a function of, as far as machines allow."""

    seed: int
    seconds: float = 60.0  # of the storm
    masters: int = 3
    workers: int = 3
    kind: str = "auto"  # netns | proxy | auto
    faults: str = "all"  # names with commas, "all", or "none"
    every_s: float = 3.0  # between faults, on average
    each: bool = False  # every one of `faults` at least once, however long that takes
    job_every_s: float = 2.5  # between jobs, on average
    shapes: tuple[str, ...] = ()  # of jobs; () = all
    works: tuple[Work, ...] = ()  # instead of drawn jobs
    registers: bool = True
    scenes: str = "all"  # of users: names with commas, "all", or "none"
    script: tuple[tuple[float, str, float], ...] = ()  # (at_s, fault, hurt_s): instead of a drawn schedule
    launcher: tuple[str, ...] = ()  # stands between `python -m` and each server's module
    settings: dict[str, str] = field(default_factory=dict)  # environment of the servers
    calm_s: float = CALM_S
    lossy: bool = True


@dataclass(slots=True)
class Result:
    """What a run found."""

    folder: Path
    outcome: Outcome
    verdicts: list[Verdict]
    text: str
    seconds: float


def run(config: RunConfig, folder: Path | None = None, *, say: Say = lambda _: None) -> Result:
    """Runs it. Raises Usage for faults that nobody knows, OSError or Error when no cluster can be made here."""
    began = time.monotonic()
    folder = (folder or Path(tempfile.mkdtemp(prefix="mr-chaos-run-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cluster").mkdir(exist_ok=True)
    (folder / "run.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)))
    with Place.build(
        config.masters,
        config.workers,
        kind=config.kind,
        home=folder / "cluster",
        seed=config.seed,
        launcher=config.launcher,
        settings=config.settings,
        lossy=config.lossy,
        outputs=folder / "work" / "out",
    ) as place:
        history = History(folder / "history.jsonl")
        try:
            found = _attack(config, place, folder, history, say)
        finally:
            history.close()
    evidence.save(found, folder / "evidence.json")
    verdicts = checkers.judge(history.events, found)
    return conclude(folder, config, history.events, found, verdicts, time.monotonic() - began)


def conclude(
    folder: Path,
    config: RunConfig,
    history: Sequence[Event],
    found: Evidence | None,
    verdicts: list[Verdict],
    seconds: float,
) -> Result:
    """Writes verdict and report; used again by `mr verify`."""
    outcome = checkers.overall(verdicts)
    (folder / "verdict.json").write_bytes(
        msgspec.json.format(msgspec.json.encode({"outcome": outcome, "verdicts": verdicts}))
    )
    story = report.Story(asdict(config), history, found or Evidence(), verdicts, outcome, folder)
    (folder / "report.html").write_text(report.html(story))
    return Result(folder, outcome, verdicts, report.text(story), seconds)


def steps_of(config: RunConfig, place: Place, say: Say) -> list[Step]:
    """The schedule. Raises Usage for an unknown fault, and for one of a script that is impossible here."""
    if not config.script and config.faults == "none":
        return []
    if config.script:
        wanted = {name for _, name, _ in config.script}
    else:
        wanted = (
            set(faults.FAULTS) if config.faults == "all" else {n.strip() for n in config.faults.split(",")}
        )
    if unknown := wanted - set(faults.FAULTS):
        raise Usage(
            f"no fault {', '.join(sorted(unknown))}", next=f"there are: {', '.join(sorted(faults.FAULTS))}"
        )
    never = {name: why for name, why in faults.impossible(place).items() if name in wanted}
    if config.script:
        if never:
            raise Usage("; ".join(f"{name} {why}" for name, why in never.items()))
        return nemesis.fixed(config.script, config.seed)
    for name, why in never.items():
        say(f"  not here: {name:24} {why}")
    here = [fault.kind() for fault in faults.possible(place) if fault.name in wanted]
    return nemesis.schedule(
        config.seed, here, config.seconds, every_s=config.every_s, at_least_once=config.each
    )


def _attack(config: RunConfig, place: Place, folder: Path, history: History, say: Say) -> Evidence:
    zero = time.monotonic_ns() - history.now()
    steps = steps_of(config, place, say)
    history.record("run", "note", "run", {**asdict(config), "kind": place.kind, "zero": zero})
    works = list(config.works) or workloads.plan(
        config.seed, config.seconds, every_s=config.job_every_s, shapes=config.shapes
    )
    home = folder / "work"
    clients = Clients(place.connect, works, home, history)
    collector = Collector(home, zero)
    collector.expect(works)
    watcher = Watcher(
        {id: server.address for id, server in place.masters.items()}, place.cluster.tls, history
    )
    reader = Reader(home / "out", history)
    registers = Registers(place.connect, config.seed, home, history)
    scenes = Scenes(place.connect, config.seed, home, place.cluster.tls.dir, history, config.scenes)
    storm = Storm(place, history, steps)
    for step in steps:
        say(f"  at {step.at_s:6.1f} s  {step.fault} for {step.hurt_s:.1f} s")
    ends = time.monotonic() + max(config.seconds, nemesis.length_s(steps))
    registers.until = scenes.until = ends - 5
    watcher.start()
    reader.start()
    clients.start()
    others: list[Registers | Scenes] = [registers] if config.registers else []
    others += [scenes] if config.scenes != "none" else []
    for other in others:
        other.start()
    storm.start()
    storm.join()
    time.sleep(max(0.0, ends - time.monotonic()))
    for text in storm.broken:
        history.record("nemesis", "note", "broken", text)
    collector.evidence.healed_t = history.record("run", "note", "healed") and history.now()
    settings = {**SETTINGS, **config.settings}
    collector.evidence.config = {
        **asdict(config),
        "settings": settings,
        "faults": "none" if not steps else config.faults,
    }
    say("healed; waiting for every job to end")
    slower = slowness(os.getloadavg()[0], os.cpu_count() or 1)
    allowed_s = calm_s(config, clients.busy, slower)
    history.record("run", "note", "allowed", {"calm_s": allowed_s, "slower": slower})
    if slower > 1:
        say(f"this machine has far more to do than this: jobs may take {slower:.1f} times as long")
    clients.deadline = scenes.deadline = time.monotonic() + allowed_s
    clients.join()
    for other in others:
        other.join(60)
    collector.expect_scenes(dict(scenes.expected))
    _calm(place, history, collector, clients.deadline)
    for text in absent(place, slower):
        history.record("nemesis", "note", "broken", text)
    reader.stop()
    _gather(place, folder, collector, watcher, say)
    place.keep_outputs()
    return collector.evidence


def calm_s(config: RunConfig, waiting: int, slower: float = 1.0) -> float:
    """How long the calm may take when clients still wait for so many jobs (T12): twice what those take undisturbed,
    and a minute. Undisturbed, jobs end as often as they come, on a machine that is not `slower` for other work."""
    return max(config.calm_s, 2 * waiting * config.job_every_s + 60) * slower


def slowness(load: float, cores: int) -> float:
    """How many times longer things take where `load` processes want `cores` processors, beyond what a cluster and its
    storm want themselves."""
    return min(SLOWEST, max(1.0, load / cores / OWN_LOAD))


def _calm(place: Place, history: History, collector: Collector, deadline: float) -> None:
    """Waits until no job is left that has not ended, registers too."""
    began = collector.evidence.healed_t
    over = {"SUCCEEDED", "FAILED", "CANCELLED"}
    left = ["nobody answers"]
    while True:
        try:
            with place.connect(timeout=5.0) as client:
                left = [job.id for job in client.jobs(limit=10_000) if _state(job) not in over]
        except Error:
            left = ["nobody answers"]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.3)
    collector.evidence.unfinished = left
    collector.evidence.calm_s = (history.now() - began) / 1e9
    history.record("run", "note", "calm", {"unfinished": left})


def absent(place: Place, slower: float) -> Iterator[str]:
    """Servers that are not there in the end, have not caught up, or that nobody counts on, though nothing hurts any
    more (C14, T12)."""
    down = [id for id, server in place.servers.items() if not server.alive]
    for id in down:
        server = place.servers[id]
        status = server.process.returncode if server.process else None
        said = server.log_tail(1).strip()
        yield f"{id} ended with status {status} after the last heal; its log ends with: {said[:300]}"
    if not set(place.masters).isdisjoint(down):
        return
    try:
        await_together(place, TOGETHER_S * slower)
    except Error as error:
        yield f"nothing hurts, and {error}"
    deadline = time.monotonic() + TOGETHER_S * slower
    while (idle := _unattached(place, down)) and time.monotonic() < deadline:
        time.sleep(0.3)
    for id, state in idle.items():
        yield f"nothing hurts, {id} runs, and to the masters it is {state}"


def _unattached(place: Place, down: Sequence[str]) -> dict[str, str]:
    """Workers that run and get no work: id -> what the leader says of them."""
    try:
        with place.connect(timeout=5.0) as client:
            states = {worker.id: worker.state for worker in client.workers()}
    except Error as error:
        return {"the cluster": f"silent: {error}"}
    living = [id for id in place.workers if id not in down]
    return {id: state for id in living if (state := states.get(id, "unknown")) not in WORKING}


def _state(job: Any) -> str:
    from mr import outcome

    return outcome.state_name(job)


def _gather(place: Place, folder: Path, collector: Collector, watcher: Watcher, say: Say) -> None:
    say("gathering evidence")
    time.sleep(1.0)  # followers apply what is committed
    tls = place.cluster.tls

    def connect_one(address: str) -> Client:
        from mr.client import connect

        return connect(address, tls=tls, timeout=3.0)

    with contextlib.suppress(Error), place.connect(timeout=10.0) as client:
        collector.evidence.config["isolation"] = ", ".join(sorted({w.isolation for w in client.workers()}))
        collector.ask(client, connect_one, place.masters)
    ended = {job.id for job in collector.evidence.jobs if job.status and job.status["ended_ms"]}
    if tls.dir is not None:
        collector.evidence.probes += probes.knock(place.masters, place.workers, tls.dir)
        collector.evidence.probes += probes.oversize(place.masters, tls.dir)
    collector.leftovers(place.workers, ended)
    needles = [SECRET.encode(), *_keys(place)]
    collector.search_arguments(needles, place.servers.values())
    pages = _pages(place, folder / "pages")
    watcher.stop()
    kill_all(place.servers.values())
    isolation = collector.evidence.config.get("isolation", "none")
    collector.evidence.audits += traces.audits(place.masters)
    collector.evidence.peeks += traces.peeks(collector.home / "peeks", isolation)
    collector.read_disks(place.masters, place.workers, place.env())
    logs = [server.log for server in place.servers.values()]
    collector.search_secrets(needles, [*logs, pages])


def _keys(place: Place) -> list[bytes]:
    """A line of each private key: as good as the key to recognise it by."""
    if place.cluster.tls.dir is None:
        return []
    files = sorted(Path(place.cluster.tls.dir).rglob("*.key"))
    return [lines[1] for file in files if len(lines := file.read_bytes().splitlines()) > 2]


def _pages(place: Place, folder: Path) -> Path:
    """What every server shows to anybody who asks: pages and metrics."""
    folder.mkdir(exist_ok=True)
    for id, server in place.servers.items():
        for name in ("", "metrics"):
            if server.alive and server.http:
                address = f"http://{server.http}/{name}"
                with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2) as page:
                    (folder / f"{id}-{name or 'page'}").write_bytes(page.read())
    return folder


def read_config(folder: Path) -> RunConfig:
    """The config of a run that was kept in `folder`. Raises Usage."""
    path = folder / "run.json" if folder.is_dir() else folder
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise Usage(
            f"{folder} holds no run: {error}", next="name the folder that `mr chaos run --keep` made"
        ) from None
