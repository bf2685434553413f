"""Masters, workers and clients in one process and one seed: the real table, the real leader, the real agent.

Consensus is played honestly but unkindly: entries of a leader commit in order, late, or never; its fate is sometimes
told as unknown; an old leader may go on believing in itself. Streams lose their tail when they break, may deliver a
word twice, and an old stream's last words may come after the new one's first.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from master import events as ev
from master import leader_events as le
from master.leader import Leader, LeaderConfig
from master.task_table import TaskTable
from mr.rpc import job_pb2, session_pb2, table_pb2
from tests.simulation.control.clock import Clock
from tests.simulation.control.truth import Truth
from tests.simulation.control.workers import SimWorker
from worker.events import Received

TICK_S = 0.1


@dataclass
class Link:
    """One stream. `up` and `down` are the times at which the last word of each direction arrives."""

    number: int
    worker: SimWorker
    master: Master
    open: bool = True
    up: float = 0.0
    down: float = 0.0


@dataclass
class Proposal:
    """Something a leader wants in the log. `fate` is drawn when it is made."""

    data: bytes
    told: Callable[[le.Outcome, list[list[ev.Event]] | None], None]
    unknown: bool
    dropped: bool


@dataclass
class Master:
    id: str
    world: World
    table: TaskTable = field(default_factory=TaskTable)
    applied: int = 0
    leader: Leader | None = None
    term: int = 0
    alive: bool = True
    saved: bytes = b""
    saved_at: int = 0

    def catch_up(self, until: int) -> None:
        """Applies what is committed; what a leader believes of itself does not matter."""
        while self.applied < until:
            self.applied += 1
            entry = table_pb2.Entry.FromString(self.world.log[self.applied - 1])
            results = self.table.apply(self.applied, entry)
            self.world.observe(self, results)
            if self.leader is not None:
                self.feed(le.Applied(self.applied, entry, results))

    def feed(self, event: le.Input) -> None:
        if self.leader is None or not self.alive:
            return
        for action in self.leader.handle(event):
            match action:
                case le.Propose(number=number, commands=commands):
                    self.world.propose(self, commands, self._told(number, self.term))
                case le.Send(session=number, orders=orders):
                    self.world.to_worker(self, number, orders)
                case le.CloseSession(session=number):
                    self.world.close_from_master(number)
                case le.LoadPlan(job=job):
                    self.world.load_plan(self, job)

    def _told(self, number: int, term: int) -> Callable[[le.Outcome, object], None]:
        def told(outcome: le.Outcome, _: object) -> None:
            if self.term == term:
                self.feed(le.Proposed(number, outcome))

        return told


class World:
    def __init__(self, seed: int, *, masters: int = 3, workers: int = 4) -> None:
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.truth = Truth()
        self.trouble = True
        self.log: list[bytes] = []
        self.digests: dict[int, bytes] = {}
        self.seen = 0  # index up to which the truth has looked
        self.term = 0
        self.chief: Master | None = None
        self.queue: list[Proposal] = []
        self.committing = False
        self.links: dict[int, Link] = {}
        self.staging: set[tuple[str, str]] = set()
        self.removed: set[str] = set()  # jobs whose staging place is gone: published, or cleaned up
        self.cut_off: set[str] = set()  # workers that reach no master
        self.cut: set[frozenset[str]] = set()  # pairs of workers that can't reach each other
        self._tokens = 0
        self.config = {
            "cluster_id": "sim",
            "version": "1.0",
            "heartbeat_s": 0.5,
            "lease_s": 3.0,
            "backup_least_s": 1.0,
            "policy": self.rng.choice(["locality", "locality", "deal", "pairwise"]),
            "placement": self.rng.choice(["", "", "", "spread-kinds"]),
            "exclude_s": 10.0,
            "fetch_memory_s": 20.0,
        }
        self.specs: dict[str, job_pb2.JobSpec] = {}
        self.masters = [Master(name, self) for name in "abcde"[:masters]]
        self.workers: dict[str, SimWorker] = {}
        for number in range(workers):
            self.start_worker(f"w{number}")
        self.clock.after(0.0, self._tick)
        self.elect(self.rng.choice(self.masters))

    def token(self) -> int:
        self._tokens += 1
        return self._tokens

    # -- consensus --

    def elect(self, chief: Master) -> None:
        """Some of what the last leader had under way commits, the rest never does; a new term begins."""
        keep = self.rng.randrange(len(self.queue) + 1)
        for proposal in self.queue[:keep]:
            if not proposal.dropped:
                self.log.append(proposal.data)
        lost, self.queue = self.queue, []
        old, self.chief = self.chief, chief
        self.term += 1
        chief.catch_up(len(self.log))
        chief.term, chief.leader = self.term, Leader(chief.table, LeaderConfig(id=chief.id, **self.config))
        chief.feed(le.Elected(self.term, self.clock.now, self.now_ms()))
        if old is not None and old is not chief:
            self.clock.after(self.rng.choice([0.0, 0.1, 1.0, 4.0]), lambda: self._depose(old, old.term))
        for proposal in lost:
            self.clock.after(0.05, lambda p=proposal: p.told(le.Outcome.UNKNOWN, None))

    def _depose(self, old: Master, term: int) -> None:
        if old.term == term and old is not self.chief and old.leader is not None:
            old.feed(le.Deposed())
            old.leader = None
            for link in list(self.links.values()):
                if link.master is old:
                    self.break_link(link.number)

    def propose(self, master: Master, commands: list[table_pb2.Command], told: Callable[..., None]) -> None:
        entry = table_pb2.Entry(term=master.term, now_ms=self.now_ms(), commands=commands)
        if master is not self.chief or master.term != self.term:
            outcome = self.rng.choice([le.Outcome.UNKNOWN, le.Outcome.NOT_APPLIED])
            self.clock.after(0.2, lambda: told(outcome, None))
            return
        draw = self.rng.random() if self.trouble else 1.0
        if draw < 0.02:
            self.clock.after(0.01, lambda: told(le.Outcome.NOT_APPLIED, None))
            return
        self.queue.append(Proposal(entry.SerializeToString(), told, draw < 0.05, draw < 0.035))
        self._commit_later()

    def _commit_later(self) -> None:
        if not self.committing and self.queue:
            self.committing = True
            self.clock.after(0.001 + self.rng.random() * 0.02, self._commit)

    def _commit(self) -> None:
        self.committing = False
        chief = self.chief
        if self.queue and chief is not None and chief.alive:
            proposal = self.queue.pop(0)
            results: list[list[ev.Event]] | None = None
            if not proposal.dropped:
                self.log.append(proposal.data)
                self._results: list[list[ev.Event]] | None = None
                chief.catch_up(len(self.log))
                results = self._results
            if proposal.unknown:
                self.clock.after(self.rng.random(), lambda: proposal.told(le.Outcome.UNKNOWN, None))
            else:
                proposal.told(le.Outcome.APPLIED, results)
        self._commit_later()

    def observe(self, master: Master, results: list[list[ev.Event]]) -> None:
        """Every replica comes by here after every entry; the first one is audited, all must be equal."""
        index = master.applied
        self._results = results
        if index > self.seen:
            assert index == self.seen + 1, "an entry was skipped"
            self.seen = index
            self.truth.applied(master.table, results)
            master.table.check()
        if index % 29 == 0:
            digest = master.table.digest()
            assert self.digests.setdefault(index, digest) == digest, f"C6: {master.id} differs at {index}"

    def now_ms(self) -> int:
        return 1_700_000_000_000 + int(self.clock.now * 1000)

    def _tick(self) -> None:
        self.clock.after(TICK_S, self._tick)
        for master in self.masters:
            if master.alive and master is not self.chief and self.rng.random() < 0.5:
                master.catch_up(self.rng.randrange(master.applied, len(self.log) + 1))
            master.feed(le.Tick(self.clock.now, self.now_ms()))

    def restart_master(self, master: Master) -> None:
        """From its last snapshot and the log: as if it had never been away (C7)."""
        master.table = TaskTable()
        if master.saved:
            master.table.restore(master.saved)
        master.applied, master.leader, master.alive = master.saved_at, None, True
        master.catch_up(len(self.log) if master is self.chief else master.saved_at)

    def save(self, master: Master) -> None:
        master.saved, master.saved_at = master.table.snapshot()(), master.applied

    def load_plan(self, master: Master, job: str) -> None:
        spec = self.specs[job]
        plan = job_pb2.SplitPlan()
        for index in range(spec.maps):
            plan.splits.add(bytes=1, hosts=[f"w{index % 4}"] if index % 3 else [])
        self.clock.after(self.rng.random() * 0.1, lambda: master.feed(le.PlanLoaded(job, plan)))

    # -- streams --

    def connect(self, worker: SimWorker) -> int | None:
        """To some master; one that does not lead sends the worker away."""
        master = self.rng.choice(self.masters)
        if not master.alive or master.leader is None or worker.name in self.cut_off:
            return None
        number = self.token()
        self.links[number] = Link(number, worker, master)
        return number

    def to_master(self, number: int, word: session_pb2.WorkerEvent) -> None:
        link = self.links.get(number)
        if link is None or not link.open:
            return
        link.up = max(link.up, self.clock.now + 0.001 + self.rng.random() * 0.02)
        twice = self.trouble and self.rng.random() < 0.02 and not word.HasField("attach")

        def arrive() -> None:
            if word.HasField("attach"):
                link.master.feed(le.Attached(number, word.attach))
                return
            for _ in range(2 if twice else 1):
                link.master.feed(le.WorkerSaid(number, word))

        # What is on the way when a stream breaks may still arrive, even after the next stream's attach.
        self.clock.after(link.up - self.clock.now, arrive)

    def to_worker(self, master: Master, number: int, orders: list[session_pb2.Order]) -> None:
        link = self.links.get(number)
        if link is None or not link.open:
            return
        message = session_pb2.MasterMessage(term=master.term)
        for order in orders:
            message.orders.add().CopyFrom(order)
        link.down = max(link.down, self.clock.now + 0.001 + self.rng.random() * 0.02)
        times = 2 if self.trouble and self.rng.random() < 0.02 else 1

        def arrive() -> None:
            if link.open:
                for _ in range(times):
                    link.worker.feed(Received(number, message))

        self.clock.after(link.down - self.clock.now, arrive)

    def close_from_master(self, number: int) -> None:
        link = self.links.get(number)
        if link is not None:
            self.clock.after(max(0.0, link.down - self.clock.now) + 0.001, lambda: self.break_link(number))

    def break_link(self, number: int) -> None:
        link = self.links.pop(number, None)
        if link is None:
            return
        link.open = False
        delay = self.rng.choice([0.0, 0.0, 0.5]) if self.trouble else 0.0
        self.clock.after(delay, lambda: link.master.feed(le.SessionClosed(number)))
        self.clock.after(0.0, lambda: link.worker.link_broken(number))

    # -- workers --

    def start_worker(self, name: str) -> None:
        old = self.workers.get(name)
        life = old.life + 1 if old else 1
        self.workers[name] = SimWorker(self, name, life, old.slots if old else self.rng.choice([1, 2, 3]))

    def reach(self, reader: SimWorker, name: str, address: str) -> SimWorker | None:
        peer = self.workers.get(name)
        if peer is None or not peer.alive or f"{name}:{peer.life}" != address:
            return None
        if frozenset((reader.name, name)) in self.cut or self.clock.now < peer.paused_until:
            return None
        return peer

    # -- clients --

    def submit(self, spec: job_pb2.JobSpec) -> None:
        self.specs[spec.job_id] = spec
        command = table_pb2.Command(
            submit=table_pb2.SubmitJob(spec=spec, request_id=f"r-{spec.job_id}", identity="me")
        )
        self._ask(command, lambda _: self.truth.accepted.add(spec.job_id))

    def cancel(self, job: str) -> None:
        def answered(events: list[ev.Event]) -> None:
            if isinstance(events[0], ev.JobFinished):
                self.truth.cancelled.add(job)

        self._ask(table_pb2.Command(cancel=table_pb2.CancelJob(job=job, request_id=f"c-{job}")), answered)

    def _ask(self, command: table_pb2.Command, answered: Callable[[list[ev.Event]], None]) -> None:
        """A client's call: repeated until somebody answers for sure."""

        def told(outcome: le.Outcome, results: list[list[ev.Event]] | None) -> None:
            if outcome is le.Outcome.APPLIED and results is not None:
                first = results[0][0]
                if not (isinstance(first, ev.Refused) and first.code == "STALE_TERM"):
                    answered(results[0])
                    return
            self.clock.after(0.3, lambda: self._ask(command, answered))

        chief = self.chief
        if chief is None or not chief.alive:
            self.clock.after(0.3, lambda: self._ask(command, answered))
        else:
            self.propose(chief, [command], told)
