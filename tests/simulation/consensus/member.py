"""One member over all its lives: the process around a real node, on virtual time.

Its clock drifts, its disk forgets, it dies when told to; everything it says passes the checker before it leaves.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consensus.applying import Applier, Item, Lead, Poisoned
from consensus.config import ReplicaConfig
from consensus.core import LEADER, NO_OP
from consensus.journal import align
from consensus.rpc import raft_pb2 as pb
from consensus.wire import APPEND, VOTE, VOTED, Message, decode, encode
from tests.simulation.consensus.disk import Crash, SimJournal, SimShelf, SimStore
from tests.simulation.consensus.machine import Registers
from tests.simulation.consensus.plan import TIMING

if TYPE_CHECKING:
    from tests.simulation.consensus.world import World

NOWHERE = Path("/nowhere")


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
        self._led_since = 0.0
        self._woke_at = float("-inf")  # the end of the last pause of the whole process
        self._heard: dict[str, float] = {}  # when each other member was heard last

    # -- the process

    def start(self) -> None:
        world, disk = self.world, self.disk
        disk.open()
        self.life += 1
        self._soon, self._led_term, self._deferred, self._heard = False, -1, [], {}
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
            data_dir=NOWHERE,
            timing=TIMING,
            limits=world.limits,
        )
        self.shelf = shelf
        self.node = world.node_type(
            config, journal, shelf, self, self.rng, handed=index, incarnation=self._incarnation()
        )
        self.alive = True
        world.log("start", self.name, f"log {journal[0][1]}..{journal[-1][1]} term {self.node.term}")
        if world.theme.quick:
            for other in world.members:
                if other != self.name:
                    world.at(self.rng.uniform(0.001, 0.02), partial(world.network.connect, self.name, other))
        self.wake()

    def _incarnation(self) -> int:
        """The time of day when this life began; clocks are set back now and then."""
        starts = self.world.count("starts")
        return self.world.dice.randint(1, 1000) if self.world.theme.clocks_jump else starts

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
            self._led_term, self._led_since = node.term, self.now()
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
            self._woke_at = self.offset + self.paused_until * self.rate
            self.world.at(self.paused_until - self.world.clock + 1e-6, lambda: self._tick(life))
            return
        self._soon = False
        self.guarded(self.node.tick)
        if self.alive:
            if self.node.leading:
                self.world.checker.still_leads(self.name, self._silent_s(), self.now() - self._woke_at)
            self._timer += 1
            timer = self._timer
            delay = max(0.001, (self.node.next_tick() - self.now()) / self.rate)
            self.world.at(delay, lambda: self.wake() if timer == self._timer and life == self.life else None)

    def _silent_s(self) -> float:
        """For how long a majority, this leader included, has not been heard, by its own clock."""
        heard = sorted(self._heard.values(), reverse=True)
        needed = len(self.world.members) // 2
        newest = heard[needed - 1] if len(heard) >= needed > 0 else float("-inf")
        return 0.0 if needed == 0 else self.now() - max(newest, self._led_since)

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
        self._heard[peer] = self.now()
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
        if not message.get("pre"):
            world.checker.shown(self.name, message["term"])
        if message["type"] == APPEND:
            world.leads(self, message["term"])
        if message["type"] == self.dies_after and not message.get("pre") and message.get("success", True):
            self.dies_after = None
            world.at(self.rng.uniform(0, 0.0004), self.in_this_life(self.die, "power cut", power=True))
            down = (0.021, 0.05) if world.theme.quick else (0.01, 0.3)
            world.at(self.rng.uniform(*down), partial(world._restart, self.name))
        target = world.peers[peer]
        life = target.life
        copy = (
            decode(pb.Frame.FromString(encode(message).SerializeToString())) if world.wire else dict(message)
        )

        def deliver() -> None:
            if world.network.outlives(life, target.life):
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
                self.world.at(self.rng.uniform(0, 0.01), self.in_this_life(self.node.snapshot_stored, meta))
            else:
                self.node.snapshot_refused()

        self.world.at(self.rng.uniform(0.001, 0.05), self.in_this_life(stored))

    def lose_patience(self) -> None:
        """Its election timeout ends now; chance may have it so."""
        electing = self.node._electing
        electing.deadline = min(electing.deadline, self.now())

    def in_this_life(self, call: Callable[..., None], *arguments: Any, **named: Any) -> Callable[[], None]:
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
            self.world.at(self.rng.uniform(0, 0.01), self.in_this_life(self.node.snapshot_taken, index))

        self.world.at(self.rng.uniform(0.001, 0.05), self.in_this_life(written))

    def _fetch(self) -> None:
        def fetched() -> None:
            stored = self.shelf.read()
            assert stored is not None
            self.applier.loaded(stored.index, stored.term, stored.data)
            self.machine.index = stored.index

        self.world.at(self.rng.uniform(0.0005, 0.02), self.in_this_life(fetched))
