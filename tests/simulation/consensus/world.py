"""A cluster of real nodes in one thread: virtual clock, seeded network and disks, faults from a plan.

Every node is the product's `Node` with its `Applier`; journal rules, fence, leading and wire format are the
product's too. What is simulated is what they stand on: time, links, disks, and the process that dies.
"""

from __future__ import annotations

import heapq
import json
import random
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

from consensus.applying import Applier, Item, Lead, Poisoned, Proposal
from consensus.config import Limits, ReplicaConfig, Timing
from consensus.core import LEADER, NO_OP
from consensus.journal import align
from consensus.node import Node
from consensus.replica import CommitUnknown
from consensus.rpc import raft_pb2 as pb
from consensus.wire import VOTE, VOTED, Message, decode, encode
from jepsen_like.linearizability import Operation
from tests.simulation.consensus.checks import Checker, Violation
from tests.simulation.consensus.disk import Crash, SimJournal, SimShelf, SimStore
from tests.simulation.consensus.machine import Registers
from tests.simulation.consensus.network import Network
from tests.simulation.consensus.plan import Fault, Profile

TIMING = Timing(heartbeat_s=0.09, election_min_s=0.3, election_max_s=0.6, lease_s=0.3)
CALM_S = 20.0  # after the last fault: everything must be well again within this
GIVE_UP_S = 1.0  # a client waits this long for one answer


def limits(kind: Profile) -> Limits:
    """Small enough that a history of seconds meets every limit."""
    return Limits(
        command_bytes=200,
        append_bytes=250 if kind.small_appends else 4000,
        window_bytes=500 if kind.small_appends else 16000,
        uncommitted_entries=60,
        apply_lag_entries=40,
        piece_bytes=300,
        window_pieces=2,
        compact_bytes=1 << 30,
        compact_entries=25 if kind.snapshots else 1 << 30,
        keep_entries=4,
    )


class Member:
    """One member over all its lives: the shell of its node."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.rng = random.Random(f"member-{world.seed}-{name}")
        self.disk = SimStore(random.Random(f"disk-{world.seed}-{name}"), world.at)
        self.disk.now = lambda: world.clock
        self.rate = self.rng.uniform(0.95, 1.05)  # of its clock
        self.offset = self.rng.uniform(0, 1000)
        self.alive = False
        self.life = 0
        self.paused_until = 0.0
        self.lag_until = 0.0
        self.node: Any = None
        self.applier: Any = None
        self.machine: Any = None
        self.dies_after: str | None = None  # the type of message that is its last
        self._deferred: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._soon = False
        self._timer = 0
        self._led_term = -1

    # -- the process

    def start(self) -> None:
        world, disk = self.world, self.disk
        disk.open()
        self.life += 1
        self._soon, self._led_term, self._deferred = False, -1, []
        world.checker.forget(self.name)
        try:
            journal = SimJournal(disk, world.checker.added)
            shelf = SimShelf(disk)
            latest = shelf.latest()
            index, term = (latest.index, latest.term) if latest else (1, 0)
            if not align(journal, index, term):
                journal.add(NO_OP, index, term)
            journal.sync()
        except Crash:
            self.die("while starting")
            return
        journal.on_durable(self.wake)
        self.machine = Registers(self.name, world.checker)
        stored = shelf.read()
        if stored:
            self.machine.restore(stored.data)
        self.machine.index = index
        self.applier = Applier(
            self.machine,
            applied=index,
            term=term,
            refuse=None,
            wake=lambda: None,
            keep=self._keep,
            fetch=self._fetch,
        )
        config = ReplicaConfig(
            id=self.name,
            peers={m: f"{m}:1" for m in world.members},
            listen="x:1",
            data_dir=world.nowhere,
            timing=TIMING,
            limits=world.limits,
        )
        self.shelf = shelf
        self.node = world.node_type(
            config, journal, shelf, self, self.rng, handed=index, incarnation=world.count("starts")
        )
        self.alive = True
        world.log("start", self.name, f"log {journal[0][1]}..{journal[-1][1]} term {self.node.term}")
        self.wake()

    def die(self, why: str, *, power: bool = False) -> None:
        """The process is gone at once; what the disk had not synced is left to chance, or lost with the power."""
        world = self.world
        world.log("CRASH", self.name, why)
        world.count("crashes")
        self.alive, self.paused_until = False, 0.0
        self.disk.crash(power=power)
        world.checker.on_majority()
        for other in world.members:
            if other != self.name:
                world.at(world.rng.uniform(0, 0.02), partial(world.network.reset, self.name, other))
        for waiter in [w for w in world.pending if w.member is self]:
            waiter.vanish()

    def guarded(self, call: Callable[..., None], *arguments: Any) -> None:
        """Runs one event on the node, applies what it committed, and looks at what it promised."""
        if not self.alive:
            return
        if self.paused_until > self.world.clock:
            if not self._deferred:
                life = self.life
                delay = self.paused_until - self.world.clock + 1e-6
                self.world.at(delay, lambda: self._resume() if life == self.life else None)
            self._deferred.append((call, arguments))
            return
        try:
            call(*arguments)
            if self.lag_until <= self.world.clock:
                self.applier.run(lambda: False)
        except Crash:
            self.die("at a journal operation")
            return
        except Poisoned as error:
            raise error.__cause__ or error from None
        if self.alive:
            self._look()

    def _resume(self) -> None:
        """After a pause: everything that came meanwhile, in the order it came."""
        deferred, self._deferred = self._deferred, []
        for call, arguments in deferred:
            self.guarded(call, *arguments)

    def _look(self) -> None:
        node, checker = self.node, self.world.checker
        if node.state == LEADER and node.term != self._led_term:
            self._led_term = node.term
            self.world.count("leaders")
            self.world.log("leader", self.name, f"term {node.term} last {node.last}")
            checker.leads(self.name, self.life, node.term, node.journal)
        checker.step(self.name, node.commit, node.journal, node.term)

    def wake(self) -> None:
        """Has the tick run soon."""
        if not self._soon and self.alive:
            self._soon = True
            life = self.life
            self.world.at(self.rng.uniform(0, 0.001), lambda: self._tick(life))

    def _tick(self, life: int) -> None:
        if life != self.life or not self.alive:
            return
        if self.paused_until > self.world.clock:
            self.world.at(self.paused_until - self.world.clock + 1e-6, lambda: self._tick(life))
            return
        self._soon = False
        self.guarded(self.node.tick)
        if self.alive:
            self._timer += 1
            timer = self._timer
            delay = max(0.001, (self.node.next_tick() - self.now()) / self.rate)
            self.world.at(delay, lambda: self.wake() if timer == self._timer and life == self.life else None)

    # -- the link

    def on_up(self, peer: str) -> None:
        self.guarded(self.node.up, peer)
        self.wake()

    def on_down(self, peer: str) -> None:
        def down() -> None:
            self.node.down(peer)
            self.node.reset(peer)

        self.guarded(down)
        self.wake()

    def on_message(self, peer: str, message: Message) -> None:
        self.world.count("messages")
        self.guarded(self.node.receive, peer, message)
        self.wake()

    # -- the shell of the node

    def now(self) -> float:
        return self.offset + self.world.clock * self.rate

    def send(self, peer: str, message: Message, bulk: bool) -> bool:
        world = self.world
        if message["type"] == VOTED and message["granted"] and not message["pre"]:
            world.checker.voted(self.name, message["term"], peer)
        elif message["type"] == VOTE and not message["pre"]:
            world.checker.voted(self.name, message["term"], self.name)
            world.count("requests")
        world.checker.shown(self.name, self.disk.hard.term)
        if message["type"] == self.dies_after and not message.get("pre") and message.get("success", True):
            self.dies_after = None
            world.at(self.rng.uniform(0, 0.0004), self._in_this_life(self.die, "power cut", power=True))
            world.at(self.rng.uniform(0.01, 0.3), partial(world._restart, self.name))
        target = world.peers[peer]
        life = target.life
        copy = (
            decode(pb.Frame.FromString(encode(message).SerializeToString())) if world.wire else dict(message)
        )

        def deliver() -> None:
            if target.life == life or world.network.mode == "stale":
                world.trace_message(self.name, peer, copy)
                target.on_message(self.name, copy)

        return world.network.send(self.name, peer, message, deliver)

    def hand(self, item: Item) -> None:
        if isinstance(item, Lead):
            self.world.log(self.name, "knows", item.leadership)
        self.applier.put(item)

    def applied(self) -> int:
        return int(self.applier.applied)

    def store_snapshot(self, meta: tuple[int, int, int, bytes]) -> None:
        def stored() -> None:
            if self.shelf.install(meta):
                self.world.count("snapshots received")
                self.world.at(self.rng.uniform(0, 0.01), self._in_this_life(self.node.snapshot_stored, meta))
            else:
                self.node.snapshot_refused()

        self.world.at(self.rng.uniform(0.001, 0.05), self._in_this_life(stored))

    def _in_this_life(self, call: Callable[..., None], *arguments: Any, **named: Any) -> Callable[[], None]:
        life = self.life

        def run() -> None:
            if life == self.life:
                self.guarded(partial(call, **named), *arguments)
                self.wake()

        return run

    def _keep(self, index: int, term: int, serialise: Callable[[], bytes], waiter: Any) -> None:
        def written() -> None:
            self.shelf.write(index, term, serialise())
            self.world.count("snapshots taken")
            self.world.at(self.rng.uniform(0, 0.01), self._in_this_life(self.node.snapshot_taken, index))

        self.world.at(self.rng.uniform(0.001, 0.05), self._in_this_life(written))

    def _fetch(self) -> None:
        def fetched() -> None:
            stored = self.shelf.read()
            assert stored is not None
            self.applier.loaded(stored.index, stored.term, stored.data)
            self.machine.index = stored.index

        self.world.at(self.rng.uniform(0.0005, 0.02), self._in_this_life(fetched))


class Call:
    """A client's call: recorded for the linearizability check when it ends."""

    def __init__(self, world: World, member: Member, name: str, key: str, action: str, value: Any) -> None:
        self.world, self.member = world, member
        self.name, self.key, self.action, self.value = name, key, action, value
        self.invoked = world.clock
        self.over = False
        self.proposal: Proposal | None = None
        world.pending.append(self)
        world.at(GIVE_UP_S, self.give_up)

    def done(self) -> bool:
        return self.over

    def set_result(self, result: Any) -> None:
        if self.action == "read":
            result = self.member.machine.values.get(self.key)
        else:
            self.world.checker.acknowledged[self.name] = self.member.machine.index
        self.world.count("acknowledged")
        self._record(result, self.world.clock)

    def set_exception(self, error: Any) -> None:
        if isinstance(error, CommitUnknown):
            self.vanish()
            return
        self._end()
        if self.action != "read":
            self.world.checker.definitely_refused(self.name)

    def give_up(self) -> None:
        """The client's deadline: a command that no log has seen is withdrawn, any other is in doubt."""
        if self.over:
            return
        node = self.member.node
        if self.proposal is not None and self.member.alive and node.proposals.withdraw(self.proposal):
            self._end()
            self.world.checker.definitely_refused(self.name)
        else:
            self.vanish()

    def vanish(self) -> None:
        """No answer: it may have happened, or may yet."""
        if not self.over:
            self._record(None, None)

    def _record(self, result: Any, returned: float | None) -> None:
        self._end()
        if self.action == "read" and returned is None:
            return
        self.world.checker.operations.append(
            Operation(
                process=self.name,
                key=self.key,
                action=self.action,
                value=tuple(self.value) if self.action == "cas" else self.value,
                result=result,
                invoked=self.invoked,
                returned=returned,
            )
        )

    def _end(self) -> None:
        self.over = True
        self.world.pending.remove(self)


class World:
    """One history. `run` ends it or raises Violation (or whatever escaped from a node)."""

    def __init__(
        self,
        seed: int,
        kind: Profile,
        faults: list[Fault],
        *,
        node_type: type[Node] = Node,
        verbose: bool = False,
        wire: bool | None = None,
    ) -> None:
        from pathlib import Path

        self.seed, self.kind, self.faults, self.node_type = seed, kind, faults, node_type
        self.verbose = verbose
        self.wire = seed % 8 == 0 if wire is None else wire  # the real frames cost time: every eighth history
        self.nowhere = Path("/nowhere")
        self.limits = limits(kind)
        self.clock = 0.0
        self.faulty = True
        self.rng = random.Random(f"world-{seed}")
        self.members = [chr(ord("a") + i) for i in range(kind.members)]
        self.counts: Counter[str] = Counter()
        self.trace: deque[str] = deque(maxlen=400)
        self.pending: list[Call] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._names = 0
        self.peers = {m: Member(self, m) for m in self.members}
        self.checker = Checker({m: p.disk for m, p in self.peers.items()})
        self.network = Network(
            kind.network,
            self.members,
            random.Random(f"network-{seed}"),
            now=lambda: self.clock,
            at=self.at,
            peers=self.peers,
        )

    # -- machinery

    def at(self, delay: float, call: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (self.clock + delay, self._sequence, call))

    def count(self, what: str) -> int:
        self.counts[what] += 1
        return self.counts[what]

    def log(self, *words: Any) -> None:
        line = f"{self.clock:8.4f} " + " ".join(str(w) for w in words)
        self.trace.append(line)
        if self.verbose:
            print(line)

    def trace_message(self, a: str, b: str, message: Message) -> None:
        if self.verbose:
            shown = {
                k: [e[1:] for e in v] if k == "entries" else len(v) if k == "data" else v
                for k, v in message.items()
                if k != "type"
            }
            self.log(f"   {a}>{b}", message["type"], shown)

    def run(self) -> None:
        for peer in self.peers.values():
            peer.start()
        for fault in self.faults:
            self.at(fault.at, partial(self._strike, fault))
        self._keep_connecting()
        self.at(0.3, self._client)
        self.at(self.kind.seconds, self._calm_down)
        while self._queue:
            self.clock, _, call = heapq.heappop(self._queue)
            self.count("events")
            call()
            if self._well():
                break
        leader = self.leader()
        assert leader is not None
        self.checker.finish(set(leader.machine.names))

    def leader(self) -> Member | None:
        leading = [p for p in self.peers.values() if p.alive and p.node.state == LEADER]
        return max(leading, key=lambda p: p.node.term, default=None)

    def _keep_connecting(self) -> None:
        for i, a in enumerate(self.members):
            for b in self.members[:i]:
                self.network.connect(a, b)
        self.at(self.rng.uniform(0.05, 0.3), self._keep_connecting)

    # -- clients

    def _client(self) -> None:
        if self.faulty:
            for _ in range(self.rng.choice((1, 1, 1, 6))):
                self._call()
            self.at(self.rng.expovariate(1 / 0.06), self._client)

    def _call(self) -> None:
        alive = [p for p in self.peers.values() if p.alive]
        leading = [p for p in alive if p.node.state == LEADER]
        if not alive:
            return
        member = self.rng.choice(leading if leading and self.rng.random() < 0.95 else alive)
        self._names += 1
        name, key = f"{self._names}", self.rng.choice("xyzuvw")
        action = self.rng.choice(("write", "write", "cas", "read"))
        value: Any = None if action == "read" else self._names
        if action == "cas":
            value = [member.machine.values.get(key, 0), self._names]
        call = Call(self, member, name, key, action, value)
        if action == "read":
            member.guarded(member.node.read, call)
        else:
            command = json.dumps([name, key, action, value]).encode()
            call.proposal = Proposal(command, call)
            member.node.proposals.append(call.proposal)
        member.wake()

    # -- faults

    def _strike(self, fault: Fault) -> None:
        if self.faulty:
            self.log("fault", fault.kind, *fault.arguments)
            getattr(self, "fault_" + fault.kind)(*fault.arguments)

    def fault_partition(self, side: tuple[str, ...], lasts: float, way: str) -> None:
        for a in side:
            for b in self.members:
                if b in side:
                    continue
                if way in ("both", "out") or (way == "leaky" and self.rng.random() < 0.7):
                    self.network.stall(a, b, lasts)
                if way in ("both", "in") or (way == "leaky" and self.rng.random() < 0.7):
                    self.network.stall(b, a, lasts)

    def fault_isolate_leader(self, lasts: float, reset: bool) -> None:
        leader = self.leader()
        if leader:
            self.fault_partition((leader.name,), lasts, "both")
            for other in self.members if reset else ():
                if other != leader.name:
                    self.network.reset(leader.name, other)

    def fault_crash(self, name: str, down: float) -> None:
        if self.peers[name].alive:
            self.peers[name].die("fault")
        self.at(down, partial(self._restart, name))

    def fault_crash_leader(self, down: float) -> None:
        leader = self.leader()
        if leader:
            self.fault_crash(leader.name, down)

    def fault_crash_at_operation(self, name: str, operations: int) -> None:
        self.peers[name].disk.crash_in = operations
        self.at(3.0, partial(self._restart, name))

    def fault_power_cut_after(self, name: str, kind: str) -> None:
        self.peers[name].dies_after = kind

    def fault_crash_all(self, down: float) -> None:
        for name in self.members:
            if self.rng.random() < 0.85:
                self.fault_crash(name, down * self.rng.uniform(0.5, 1.5))

    def fault_reset(self, a: str, b: str) -> None:
        self.network.reset(a, b)

    def fault_flap(self, a: str, b: str, times: int) -> None:
        for i in range(times):
            self.at(0.4 * i, partial(self.network.stall, a, b, 0.2))
            self.at(0.4 * i, partial(self.network.stall, b, a, 0.2))
            self.at(0.4 * i + 0.05, partial(self.network.reset, a, b))

    def fault_pause(self, name: str, lasts: float) -> None:
        self.peers[name].paused_until = self.clock + lasts

    def fault_slow_disk(self, name: str, lasts: float) -> None:
        self.peers[name].disk.slow_until = self.clock + lasts
        self.peers[name].lag_until = self.clock + lasts / 2

    def fault_transfer(self) -> None:
        leader = self.leader()
        if leader:
            leader.guarded(leader.node.transfer, None, 1.0, _Deaf())

    def fault_snapshot(self, name: str) -> None:
        member = self.peers[name]
        if member.alive:
            member.guarded(member.node.snapshot)

    def fault_lose_disk(self, name: str, how: str) -> None:
        """One disk at a time, and only while every other member has its own and may vote."""
        others = [self.peers[m].disk for m in self.members if m != name]
        member = self.peers[name]
        if (
            not all(d.hard.voter for d in others)
            or not member.disk.hard.voter
            or self.newest_elsewhere(name) < 0
        ):
            return
        if member.alive:
            member.die("disk lost")
        if how == "flip" and not member.disk.flip():
            raise Violation("FC19 a flipped bit went unnoticed")
        if how == "truncate" and not member.disk.truncate():
            raise Violation("FC20 a log that was cut went unnoticed")
        self.count("disks lost")
        self.checker.lost_disk(name)
        member.disk.lose()
        self.at(self.rng.uniform(0.1, 1.5), partial(self._restart, name))

    def newest_elsewhere(self, name: str) -> int:
        """Whether the newest committed entry is on the disk of some other member."""
        known = self.checker.committed.get(self.checker.newest)
        if known is None:
            return 0
        others = [self.peers[m].disk for m in self.members if m != name]
        return 0 if any(d.holds(self.checker.newest, known[1]) for d in others) else -1

    def _restart(self, name: str) -> None:
        if not self.peers[name].alive:
            self.peers[name].start()

    def _calm_down(self) -> None:
        self.log("calm")
        self.faulty = False
        self.network.heal()
        for name, peer in self.peers.items():
            peer.disk.crash_in, peer.disk.slow_until, peer.lag_until = None, 0.0, 0.0
            self._restart(name)
        self.at(CALM_S, self._too_late)
        self.at(0.5, self._last_word)

    def _last_word(self) -> None:
        """Somebody must lead and commit again (C14)."""
        leader = self.leader()
        if leader:
            self._names += 1
            call = Call(self, leader, f"last-{self._names}", "x", "write", self._names)
            command = json.dumps([call.name, "x", "write", self._names]).encode()
            call.proposal = Proposal(command, call)
            leader.node.proposals.append(call.proposal)
            leader.wake()
        self.at(0.5, self._last_word)

    def _well(self) -> bool:
        """All are up, one leads, and all have applied a command that was proposed after the faults ended."""
        if self.faulty:
            return False
        peers = list(self.peers.values())
        leader = self.leader()
        if leader is None or not all(p.alive and p.node.journal.voter for p in peers):
            return False
        names = leader.machine.names
        if not any(n.startswith("last-") for n in names[-3:]):
            return False
        return (
            all(p.machine.names and p.machine.names[-1] == names[-1] for p in peers)
            and self.rng.random() < 0.2
        )

    def _too_late(self) -> None:
        about = [
            f"{p.name}: term {p.node.term} state {p.node.state} commit {p.node.commit} last {p.node.last} "
            f"applied {p.applier.applied} voter {p.node.journal.voter}"
            for p in self.peers.values()
        ]
        raise Violation("C14 liveness: not well again: " + "; ".join(about))


class _Deaf:
    """Nobody waits for this."""

    def done(self) -> bool:
        return True

    def set_result(self, result: Any) -> None:
        pass

    def set_exception(self, error: Any) -> None:
        pass
