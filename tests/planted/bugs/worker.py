"""Bugs of the worker: whom it obeys, what it begins, what it leaves behind."""

from __future__ import annotations

from typing import Any

from tests.planted.bug import QUIET, Bug, work

STORM = {"workers": 2, "lossy": False, "calm_s": 45.0, "registers": False, "scenes": "none"}
PACED = (work("long", 0, files=14, lines=20, reduces=2, map_s=1.0),)


def term_check_skipped() -> None:
    """The worker obeys any term; a master stamps its orders with the term of its first election."""
    from master.driver import Driver
    from worker import agent

    first: dict[str, int] = {}
    carry_out = Driver._carry_out

    def stamped(self: Any, actions: Any) -> None:
        now, self.term = self.term, min(self.term, first.setdefault("term", self.term))
        try:
            carry_out(self, actions)
        finally:
            self.term = now

    Driver._carry_out = stamped  # type: ignore[method-assign]
    received = agent.Agent._received

    def obedient(self: Any, event: Any) -> Any:
        self.term = 0
        return received(self, event)

    agent.Agent._received = obedient  # type: ignore[method-assign]


def attempt_begun_twice() -> None:
    """Every order to run is carried out, also the second one for the same attempt."""
    from worker import runtime
    from worker.events import StartTask

    feed = runtime.Runtime.feed

    def twice(self: Any, event: Any) -> None:
        handle = self.agent.handle

        def doubled(event: Any) -> Any:
            actions = handle(event)
            again = [
                a
                for a in actions
                if isinstance(a, StartTask) and a.attempt.number == 1 and a.attempt.kind == 0
            ]
            return [*actions, *again]

        self.agent.handle = doubled
        try:
            feed(self, event)
        finally:
            del self.agent.handle

    runtime.Runtime.feed = twice  # type: ignore[method-assign]


def scratch_kept() -> None:
    """The scratch of a job that ended stays."""
    from worker.store import Store

    Store.drop_job = lambda self, name: None  # type: ignore[method-assign]


def environment_logged() -> None:
    """The worker writes the environment of each job into its log."""
    import logging

    from worker.runtime import Runtime

    prepare = Runtime._prepare

    async def chatty(self: Any, action: Any) -> None:
        logging.getLogger("mr.worker").warning("job %s with %s", action.job, dict(action.spec.env))
        await prepare(self, action)

    Runtime._prepare = chatty  # type: ignore[method-assign]


def reduce_without_a_map() -> None:
    """A reduce begins to merge when all but one of its inputs are here, and says that it had them all."""
    from worker.gather import Gather

    complete = Gather.complete
    runs = Gather.runs

    def missing_last(self: Any) -> Any:
        return runs(self)[:-1] if len(runs(self)) > 1 else runs(self)

    assert isinstance(complete, property)
    Gather.runs = missing_last  # type: ignore[method-assign]
    from master import attempt_commands

    done = attempt_commands.complete

    def lenient(table: Any, command: Any) -> Any:
        key = attempt_commands.key_of(command.attempt)
        job = table.jobs.get(key.job)
        if job is not None and key.kind == attempt_commands.REDUCE and key.step < len(job.steps):
            command.result.consumed_digest = job.steps[key.step].winners_digest()
        return done(table, command)

    attempt_commands.complete = lenient


def completions_after_the_heartbeat() -> None:
    """On attaching, what has been finished comes after the heartbeat, which says that all has been told."""
    from worker.agent import Agent

    attach = Agent._attach

    def late(self: Any, number: int) -> Any:
        first, *rest, heartbeat = attach(self, number)
        return [first, heartbeat, *rest]

    Agent._attach = late  # type: ignore[method-assign]


def what_failed_is_not_fetched_again() -> None:
    """A map output that a call did not bring is not asked for a second time."""
    from worker.gather import Gather

    ended = Gather.ended

    def content(self: Any, worker: str, fetched: Any, now: float) -> None:
        peer = self._peers.get(worker)
        if peer is not None:
            peer.asked = tuple(run.map for run in fetched)
        ended(self, worker, fetched, now)

    Gather.ended = content  # type: ignore[method-assign]


def leaves_before_it_is_told() -> None:
    """A worker that is to go goes as soon as nothing runs; what it has not been told of yet goes with it."""
    from worker.agent import Agent

    Agent._idle = lambda self: not self.load.work  # type: ignore[method-assign]


def log_bound_for_each_write() -> None:
    """What is left of a log's bound is not counted down: it bounds each write, and not the file."""
    from worker.log import AttemptLog

    write = AttemptLog.write

    def generous(self: Any, data: bytes) -> None:
        left = self._left
        write(self, data)
        self._left = left

    AttemptLog.write = generous  # type: ignore[method-assign]


def forgotten_jobs_begin_again() -> None:
    """That a job was forgotten is not remembered: a late order for it is obeyed."""
    from worker.workload import Workload

    forget = Workload.forget

    def forgotten(self: Any, index: int, name: str) -> Any:
        steps = forget(self, index, name)
        self._forgotten.pop(name, None)
        return steps

    Workload.forget = forgotten  # type: ignore[method-assign]


BUGS = [
    Bug(
        name="term-check-skipped",
        breaks="C12",
        plant=term_check_skipped,
        run={
            **STORM,
            "seconds": 18.0,
            "works": PACED,
            # leadership goes round, so that somebody leads again who has led before
            "script": (
                (3.0, "transfer-leadership", 1.0),
                (6.0, "transfer-leadership", 1.0),
                (9.0, "transfer-leadership", 1.0),
                (12.0, "transfer-leadership", 1.0),
                (15.0, "transfer-leadership", 1.0),
            ),
        },
    ),
    Bug(name="attempt-begun-twice", breaks="T5", plant=attempt_begun_twice, run=QUIET),
    Bug(
        name="leaves-before-it-is-told",
        breaks="T4",
        plant=leaves_before_it_is_told,
        run={
            **STORM,
            "seconds": 20.0,
            "works": tuple(work("sort", n, files=4, lines=20, map_s=0.8, at_s=2.0 * n) for n in range(10)),
            "script": tuple((1.5 + 4.0 * n, "terminate-worker", 0.5) for n in range(5)),
        },
    ),
    Bug(
        name="log-bound-for-each-write",
        breaks="T15",
        plant=log_bound_for_each_write,
        run={**QUIET, "works": (work("hostile-babble", 0, files=2, reduces=1), work("wordcount", 1))},
    ),
    Bug(name="scratch-kept", breaks="D9", plant=scratch_kept, run=QUIET),
    Bug(name="environment-logged", breaks="S5", plant=environment_logged, run=QUIET),
    Bug(name="reduce-without-a-map", breaks="T9, D1", plant=reduce_without_a_map, run=QUIET),
    Bug(
        name="completions-after-the-heartbeat",
        breaks="T4",
        plant=completions_after_the_heartbeat,
        run={
            **STORM,
            "workers": 3,
            "seconds": 22.0,
            "works": (work("long", 0, files=60, lines=20, reduces=2, map_s=0.5),),
            "script": ((3.0, "settlements-lost", 5.0), (9.5, "settlements-lost", 4.0)),
        },
    ),
    Bug(
        name="what-failed-is-not-fetched-again",
        breaks="T12, D7",
        plant=what_failed_is_not_fetched_again,
        run={
            **STORM,
            "workers": 3,
            "seconds": 24.0,
            # so much to fetch that a connection which is cut is cut in the middle of it; half of the cuts meet workers
            "works": tuple(
                work("spill", n, files=4, lines=3_000, reduces=3, at_s=1.6 * n) for n in range(14)
            ),
            "script": (
                (1.0, "cut-after-bytes", 5.0),
                (7.0, "workers-pair-apart", 4.0),
                (12.0, "cut-after-bytes", 5.0),
                (18.0, "workers-pair-apart", 4.0),
            ),
        },
    ),
    Bug(
        name="forgotten-jobs-begin-again",
        breaks="T2, T5, T7, D9",
        plant=forgotten_jobs_begin_again,
        run={
            **STORM,
            "seconds": 20.0,
            "works": tuple(work("tiny", n, files=1, reduces=1, at_s=0.7 * n) for n in range(20)),
            "script": ((2.0, "orders-late", 12.0),),
        },
    ),
]
