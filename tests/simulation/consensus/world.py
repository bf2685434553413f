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

from consensus.applying import Proposal
from consensus.core import LEADER
from consensus.node import Node
from consensus.wire import Message
from tests.simulation.consensus.checks import Checker, Violation
from tests.simulation.consensus.clients import Call, Deaf
from tests.simulation.consensus.member import Member
from tests.simulation.consensus.network import Network
from tests.simulation.consensus.plan import Fault, Profile, limits
from tests.simulation.consensus.themes import THEMES

CALM_S = 20.0  # after the last fault: everything must be well again within this


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
        self.seed, self.kind, self.faults, self.node_type = seed, kind, faults, node_type
        self.verbose = verbose
        self.wire = seed % 8 == 0 if wire is None else wire  # the real frames cost time: every eighth history
        self.theme = THEMES[kind.theme]
        self.limits = limits(kind)
        self.clock = 0.0
        self.faulty = True
        self.rng = random.Random(f"world-{seed}")
        self.dice = random.Random(f"dice-{seed}")  # of the faults of a theme
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
            slow=self.theme.slow,
            twice=self.theme.twice,
        )
        self.network.calm = self.theme.calm
        self._spoils: deque[tuple[int, float, float]] = deque()
        self._spoiled: set[int] = set()  # terms whose leader was looked at

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
        if self.theme.one_leader and self.counts["leaders"] > 1:
            raise Violation(
                f"C13 no disturbance: {self.counts['leaders']} leaders although the first one was well"
            )

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
            self.at(self.rng.expovariate(1 / self.theme.call_s), self._client)

    def _call(self) -> None:
        alive = [p for p in self.peers.values() if p.alive]
        leading = [p for p in alive if p.node.state == LEADER]
        if not alive:
            return
        member = self.rng.choice(leading if leading and self.rng.random() < 0.95 else alive)
        self._names += 1
        name, key = f"{self._names}", self.rng.choice(self.theme.keys)
        action = self.rng.choice(("write", "write", "cas", "read"))
        if self.theme.deposed_readers:
            action = (
                "read" if self.rng.random() < self.theme.reads else self.rng.choice(("write", "write", "cas"))
            )
            if leading and self.rng.random() < 0.8:
                by_term = sorted(leading, key=lambda p: p.node.term)
                member = by_term[0] if action == "read" else by_term[-1]
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
            leader.guarded(leader.node.transfer, None, 1.0, Deaf())

    def fault_snapshot(self, name: str) -> None:
        member = self.peers[name]
        if member.alive:
            member.guarded(member.node.snapshot)

    def fault_lose_disk(self, name: str, how: str) -> None:
        member = self.peers[name]
        if not self._may_lose_disk(name):
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

    # -- faults of themes

    def fault_isolate_leader_from_members(self, lasts: float, reset: bool) -> None:
        """Its clients still reach it."""
        self.fault_isolate_leader(lasts, reset)

    def fault_pause_leader(self, lasts: float) -> None:
        leader = self.leader()
        if leader:
            self.fault_pause(leader.name, lasts)

    def fault_power_cut(self, name: str, down: float) -> None:
        if self.peers[name].alive:
            self.peers[name].die("power cut", power=True)
        self.at(down, partial(self._restart, name))

    def fault_power_cut_all(self, down: float) -> None:
        for name in self.members:
            self.fault_power_cut(name, down * self.dice.uniform(0.5, 1.5))

    def fault_power_cut_voter(self, name: str, kind: str) -> None:
        """And somebody stands, so that it is asked."""
        self.peers[name].dies_after = kind
        others = [m for m in self.members if m != name]
        self.fault_rivals(*self.dice.sample(others, 2), 0.3, False)

    def fault_rivals(self, one: str, other: str, lasts: float, dies: bool) -> None:
        """The leader is lost to all, and two members run out of patience at once."""
        leader = self.leader()
        if leader:
            if dies:
                self.fault_crash(leader.name, lasts)
            else:
                self.fault_isolate_leader(lasts, True)
        for name in (one, other):
            member = self.peers[name]
            self.at(self.dice.uniform(0.005, 0.012), member.in_this_life(member.lose_patience))

    def fault_spoil_next_leader(self, reach: int, lasts: float, down: float) -> None:
        self._spoils.append((reach, lasts, down))

    def fault_deaf_leader(self, reach: int, lasts: float, down: float) -> None:
        """The present leader, and the next one too."""
        self._spoils.append((reach, lasts, down))
        leader = self.leader()
        if leader and self._spoilable(leader):
            self._spoil(leader, reach, lasts, down)

    def fault_favourite_stands(self, name: str, dies: bool) -> None:
        """It stands again and again, whoever leads."""
        leader = self.leader()
        if leader and leader.name != name:
            self.fault_rivals(name, name, 0.2, dies)

    def leads(self, member: Member, term: int) -> None:
        """Before the first append of a term leaves: the leader may reach only a few, and die soon."""
        if not self._spoils or term in self._spoiled or not self.faulty or not self._spoilable(member):
            return
        self._spoiled.add(term)
        self._spoil(member, *self._spoils.popleft())

    def _spoilable(self, member: Member) -> bool:
        return not self.theme.favourite or member.name == self.members[0]

    def _spoil(self, member: Member, reach: int, lasts: float, down: float) -> None:
        others = [m for m in self.members if m != member.name]
        self.dice.shuffle(others)
        self.log("spoilt", member.name, f"reaches {others[:reach]} for {lasts} s, then down for {down} s")
        for other in others[reach:]:
            self.network.stall(member.name, other, lasts + 0.05)

        def end() -> None:
            if down:
                self.fault_crash(member.name, down)
            else:
                for other in self.members:
                    if other != member.name:
                        self.network.reset(member.name, other)
            next_one = self.peers[self.dice.choice(others)]
            self.at(self.dice.uniform(0.02, 0.03), next_one.in_this_life(next_one.lose_patience))

        self.at(lasts, member.in_this_life(end))

    def fault_swap_disk(self, name: str, down: float) -> None:
        self._lose_disk(name, down)

    def fault_swap_voter(self, name: str, down: float) -> None:
        """It loses its disk just after it voted, and somebody else stands again."""
        others = [m for m in self.members if m != name]
        one, other = self.dice.sample(others, 2)
        self.fault_rivals(one, other, 0.3, False)
        self.at(self.dice.uniform(0.01, 0.06), partial(self._lose_disk, name, down))

    def fault_swap_between(self, down: float, lasts: float, stands: bool) -> None:
        """A follower helps another into office, loses its disk, and comes back to the old leader alone."""
        leader = self.leader()
        if leader is None:
            return
        rival, voter, *rest = self.dice.sample(
            [m for m in self.members if m != leader.name], len(self.members) - 1
        )
        for name in (rival, *rest):
            self.network.stall(leader.name, name, lasts)
            self.network.stall(name, leader.name, lasts)
        for name in self.members:
            if name != leader.name:
                self.network.reset(leader.name, name)
        member = self.peers[rival]
        self.at(self.dice.uniform(0.003, 0.008), member.in_this_life(member.lose_patience))

        def swap() -> None:
            for name in (rival, *rest):
                self.network.stall(voter, name, lasts)
                self.network.stall(name, voter, lasts)
            self._lose_disk(voter, down)

        def stand() -> None:
            self.network.reset(leader.name, voter)
            chosen = self.peers[self.dice.choice((leader.name, voter))]
            if chosen.alive:
                chosen.lose_patience()

        self.at(self.dice.uniform(0.02, 0.06), swap)
        if stands:
            self.at(self.dice.uniform(0.25, 0.5), stand)

    def _lose_disk(self, name: str, down: float) -> None:
        if self.faulty and self._may_lose_disk(name):
            if self.peers[name].alive:
                self.peers[name].die("disk lost")
            self.count("disks lost")
            self.checker.lost_disk(name)
            self.peers[name].disk.lose()
            self.at(down, partial(self._restart, name))

    def _may_lose_disk(self, name: str) -> bool:
        """One disk at a time, and only while every other member has its own and may vote."""
        others = [self.peers[m].disk for m in self.members if m != name]
        mine = self.peers[name].disk.hard.voter
        return mine and all(d.hard.voter for d in others) and self.newest_elsewhere(name) >= 0

    def _followers(self, chance: float, count: int = 1) -> list[str]:
        """Some followers, while all are well: else the leader may have nobody left, and rightly goes."""
        leader = self.leader()
        well = all(p.alive and p.paused_until <= self.clock for p in self.peers.values())
        whole = all(until < self.clock for until in self.network.unsettled.values())
        standing = all(self.network.standing.values())
        if leader is None or not (well and whole and standing):
            return []
        followers = [m for m in self.members if m != leader.name]
        first = int(chance * len(followers))
        return (followers[first:] + followers[:first])[:count]

    def fault_followers_away(self, chance: float, count: int, lasts: float, way: str) -> None:
        if names := self._followers(chance, count):
            self.fault_partition(tuple(names), lasts, way)

    def fault_follower_paused(self, chance: float, lasts: float) -> None:
        for name in self._followers(chance):
            self.fault_pause(name, lasts)

    def fault_follower_crashes(self, chance: float, down: float) -> None:
        for name in self._followers(chance):
            self.fault_crash(name, down)

    def fault_follower_slow(self, chance: float, lasts: float) -> None:
        for name in self._followers(chance):
            self.fault_slow_disk(name, lasts)

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
