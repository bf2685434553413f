"""Plays one seed: a few jobs, a storm of faults, then calm in which every job must end."""

from __future__ import annotations

import random
from collections import Counter

from mr.rpc import job_pb2
from tests.simulation.control.world import World

STORM_S = 25.0
CALM_S = 200.0


def spec_of(rng: random.Random, number: int) -> job_pb2.JobSpec:
    """A small job of one to three steps, map-only ones, ones without input and ones with many reduces among them."""
    spec = job_pb2.JobSpec(
        job_id=f"job{number}",
        maps=rng.choice([0, 1, 3, 8, 20]),
        staging=f"/out/.{number}",
        splits_digest=b"plan",
    )
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        spec.steps.add(mapper="m", reducer="r", reduces=rng.choice([0, 1, 3, 6]))
    spec.output.path = f"/out/{number}"
    spec.options.speculate = rng.random() < 0.6
    spec.options.queue = rng.choice(["", "batch"])
    spec.options.priority = rng.choice([0, 50, 100])
    return spec


def storm(world: World, rng: random.Random) -> None:
    """One fault now, and another one soon, until the storm is over."""
    if world.clock.now > STORM_S:
        calm(world)
        return
    fault = rng.choice(
        [
            "elect",
            "elect",
            "kill",
            "pause",
            "break",
            "cut-off",
            "cut",
            "save",
            "restart",
            "slow",
            "reelect",
            "stall",
        ]
    )
    names = list(world.workers)
    worker = world.workers[rng.choice(names)]
    match fault:
        case "elect":
            world.elect(rng.choice([m for m in world.masters if m.alive]))
        case "reelect":
            assert world.chief is not None
            world.elect(world.chief)
        case "kill":
            worker.kill()
            back = rng.choice([0.1, 2.0, 6.0])
            world.clock.after(
                back, lambda: world.workers[worker.name].alive or world.start_worker(worker.name)
            )
        case "pause":
            worker.paused_until = world.clock.now + rng.choice([0.5, 2.0, 5.0])
        case "break":
            if worker.link is not None:
                world.break_link(worker.link)
        case "cut-off":
            world.cut_off.add(worker.name)
            if worker.link is not None:
                world.break_link(worker.link)
            world.clock.after(rng.choice([0.5, 5.0]), lambda: world.cut_off.discard(worker.name))
        case "cut":
            pair = frozenset(rng.sample(names, 2))
            world.cut.add(pair)
            world.clock.after(rng.choice([2.0, 8.0]), lambda: world.cut.discard(pair))
        case "save":
            world.save(rng.choice(world.masters))
        case "restart":
            other = rng.choice([m for m in world.masters if m is not world.chief])
            for link in list(world.links.values()):
                if link.master is other:
                    world.break_link(link.number)
            world.restart_master(other)
        case "slow":
            worker.slow = rng.choice([1.0, 5.0])
        case "stall":  # the files of finished maps vanish from a disk
            worker.store = {key for key in worker.store if rng.random() < 0.5}
    world.clock.after(rng.random() * 1.5, lambda: storm(world, rng))


def calm(world: World) -> None:
    """Every fault is healed."""
    world.trouble = False
    world.cut.clear()
    world.cut_off.clear()
    for name, worker in list(world.workers.items()):
        worker.paused_until, worker.slow = 0.0, 1.0
        if not worker.alive:
            world.start_worker(name)


def play(seed: int) -> Counter[str]:
    """What happened, counted. AssertionError when a promise is broken."""
    world = World(seed)
    rng = world.rng
    for number in range(rng.choice([1, 2, 4])):
        spec = spec_of(rng, number)
        world.clock.after(rng.random() * STORM_S * 0.6, lambda s=spec: world.submit(s))
        if rng.random() < 0.2:
            world.clock.after(rng.random() * STORM_S, lambda s=spec: world.cancel(s.job_id))
        elif rng.random() < 0.1:
            spec.options.deadline_ms = rng.choice([1000, 10_000])
    world.clock.after(rng.random() * 3, lambda: storm(world, rng))
    jobs = set(world.specs)
    world.clock.run(STORM_S + 2)
    jobs = set(world.specs)
    done = world.clock.run(STORM_S + CALM_S, lambda: jobs <= world.truth.ended.keys())
    if not done:
        raise AssertionError(f"T12: not ended: {stuck(world)}")
    world.clock.run(world.clock.now + 60, lambda: not leftovers(world))
    finish(world)
    return world.truth.counts


def leftovers(world: World) -> list[str]:
    """What ended jobs left on workers and in their staging places (D9)."""
    left = [
        f"{w.name} holds {key}"
        for w in world.workers.values()
        for key in w.store
        if key.job in world.truth.ended
    ]
    left += [
        f"{w.name} keeps a folder of {job}"
        for w in world.workers.values()
        for job in sorted(w.folders & world.truth.ended.keys())
    ]
    left += [f"{w.name} runs {attempt}" for w in world.workers.values() for attempt in w.tasks]
    return left + [f"{job} left {name}" for job, name in world.staging]


def finish(world: World) -> None:
    """After the end: all replicas equal, nothing left on any disk (C6, D9)."""
    for master in world.masters:
        master.catch_up(len(world.log))
    assert len({master.table.digest() for master in world.masters}) == 1, "C6: the replicas differ"
    assert world.truth.accepted <= set(world.masters[0].table.jobs), "C8: an accepted job is gone"
    assert not leftovers(world), f"D9: {leftovers(world)}"


def stuck(world: World) -> str:
    assert world.chief is not None
    table, leader = world.chief.table, world.chief.leader
    lines = []
    for job in table.live.values():
        states = [(step.maps.in_state, step.reduces.in_state) for step in job.steps]
        lines.append(f"{job.id} state {job.state} step {job.step} {states} running {job.running}")
    for worker in table.workers.values():
        lines.append(f"{worker.id} {worker.incarnation} state {worker.state} runs {sorted(worker.running)}")
    for worker in world.workers.values():
        lines.append(
            f"agent {worker.name}.{worker.life} link {worker.link} work {list(worker.agent.load.work)}"
        )
    if leader is not None:
        lines.append(
            f"leader ready {leader.ready} sessions {leader.sessions.by_worker.keys()} plans {leader.plans.keys()}"
        )
    return "\n  ".join(lines)
