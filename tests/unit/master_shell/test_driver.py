"""Between the leader and the world: in order, within an entry's size, and no bug of the leader ends the master."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from consensus.replica import CommitUnknown, ConsensusError, Leadership, NotLeader
from master import leader_events as le
from master.bounds import REPORT_BYTES, bounded, why_too_large
from master.driver import Driver
from master.streams import Link
from mr.rpc import job_pb2, table_pb2
from mr.rpc import session_pb2 as pb


class Scripted:
    """A leader that answers what the test says, and remembers what it was told."""

    def __init__(self, answers: dict[type, list[Any]]) -> None:
        self.answers = answers
        self.told: list[Any] = []

    def handle(self, event: Any) -> list[Any]:
        self.told.append(event)
        answer = self.answers.get(type(event), [])
        if isinstance(answer, Exception):
            raise answer
        return answer


class Consensus:
    """Proposals end as the test says."""

    def __init__(self, outcome: ConsensusError | None = None) -> None:
        self.entries: list[table_pb2.Entry] = []
        self.outcome = outcome
        self.leadership = Leadership(term=3, leader="a", mine=True)

    async def propose(self, command: bytes, *, timeout_s: float) -> Any:
        self.entries.append(table_pb2.Entry.FromString(command))
        await asyncio.sleep(0)
        if self.outcome:
            raise self.outcome


class Lines:
    def __init__(self) -> None:
        self.sent: list[tuple[int, pb.MasterMessage]] = []
        self.closed: list[int] = []
        self.all_closed = 0

    def send(self, session: int, message: pb.MasterMessage) -> None:
        self.sent.append((session, message))

    def close(self, session: int) -> None:
        self.closed.append(session)

    def close_all(self) -> None:
        self.all_closed += 1


def rig(
    answers: dict[type, Any], outcome: ConsensusError | None = None
) -> tuple[Driver, Scripted, Consensus, Lines]:
    leader, consensus, lines = Scripted(answers), Consensus(outcome), Lines()

    async def load(digest: bytes) -> bytes:
        return job_pb2.SplitPlan(splits=[job_pb2.Split(bytes=7)]).SerializeToString()

    driver = Driver(lambda: leader, consensus, lines, load, propose_timeout_s=1.0)  # type: ignore[arg-type]  # stand-ins
    return driver, leader, consensus, lines


def lead(driver: Driver, term: int = 3, *, mine: bool = True) -> None:
    driver.led(Leadership(term=term, leader="a" if mine else "b", mine=mine))


def big(count: int) -> list[table_pb2.Command]:
    return [table_pb2.Command(expire=table_pb2.ExpireJob(job="x" * 100_000)) for _ in range(count)]


@pytest.mark.parametrize(
    ("promise", "outcome", "then"),
    [
        ("applied", None, le.Outcome.APPLIED),
        ("definite", NotLeader("b"), le.Outcome.NOT_APPLIED),
        ("in doubt", CommitUnknown(), le.Outcome.UNKNOWN),
    ],
)
async def test_a_proposal_ends_as_consensus_says(
    promise: str, outcome: ConsensusError | None, then: le.Outcome
) -> None:
    driver, leader, consensus, _ = rig({le.Elected: [le.Propose(1, big(1))]}, outcome)
    lead(driver)
    await settle()
    assert leader.told[-1] == le.Proposed(1, then), promise
    assert consensus.entries[0].term == 3
    assert consensus.entries[0].now_ms > 0


async def test_many_commands_travel_in_entries_of_bounded_size_and_order() -> None:
    driver, leader, consensus, _ = rig({le.Elected: [le.Propose(1, big(14))]})
    lead(driver)
    await settle()
    assert sum(len(entry.commands) for entry in consensus.entries) == 14
    assert len(consensus.entries) > 1
    assert all(entry.ByteSize() < 1 << 20 for entry in consensus.entries)
    assert leader.told[-1] == le.Proposed(1, le.Outcome.APPLIED)


async def test_nothing_of_an_old_term_reaches_a_new_leader() -> None:
    driver, leader, _, lines = rig({le.Elected: [le.Propose(1, big(1))]})
    lead(driver)
    lead(driver, 4, mine=False)
    await settle()
    assert [type(event) for event in leader.told] == [le.Elected, le.Deposed]
    assert lines.all_closed == 1
    assert not driver.leading
    driver.feed(le.Tick(now_s=1.0, now_ms=1))
    assert type(leader.told[-1]) is le.Deposed


async def test_a_new_term_of_the_same_master_begins_with_fresh_sessions() -> None:
    driver, leader, _, lines = rig({})
    lead(driver, 3)
    lead(driver, 3)
    assert (lines.all_closed, [type(event) for event in leader.told]) == (0, [le.Elected])
    lead(driver, 5)
    assert (lines.all_closed, driver.term) == (1, 5)


async def test_orders_bear_the_term_and_plans_come_back() -> None:
    order = pb.Order(index=9, forget=pb.ForgetJob(job="j"))
    driver, leader, _, lines = rig(
        {le.Elected: [le.Send(5, [order]), le.CloseSession(6), le.LoadPlan("j", b"d")]}
    )
    lead(driver)
    await settle()
    assert lines.sent == [(5, pb.MasterMessage(term=3, orders=[order]))]
    assert lines.closed == [6]
    assert leader.told[-1] == le.PlanLoaded("j", job_pb2.SplitPlan(splits=[job_pb2.Split(bytes=7)]))


async def test_a_leader_that_chokes_is_replaced_and_the_master_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("master.driver._AFTER_FAILURE_S", 0.01)
    driver, leader, _, lines = rig({le.Tick: ValueError("a bug")})  # type: ignore[dict-item]  # raised
    lead(driver)
    driver.feed(le.Tick(now_s=1.0, now_ms=1))
    assert (driver.failures, lines.all_closed, driver.leading) == (1, 1, False)
    await asyncio.sleep(0.05)
    assert driver.leading
    assert [type(event) for event in leader.told] == [le.Elected, le.Tick, le.Elected]


async def test_a_link_joins_messages_of_one_term_in_order_and_ends_after_them() -> None:
    link = Link()
    for number in range(3):
        link.put(pb.MasterMessage(term=1, orders=[pb.Order(index=number)]))
    link.put(pb.MasterMessage(term=1, heartbeat_echo=7))
    link.put(pb.MasterMessage(term=2, orders=[pb.Order(index=3)]))
    link.close()
    got = [message async for message in link.messages()]
    assert [[order.index for order in message.orders] for message in got] == [[0, 1, 2], [3]]
    assert got[0].heartbeat_echo == 7


async def test_a_worker_that_does_not_read_loses_its_session_not_our_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("master.streams._QUEUE_BYTES", 1000)
    link = Link()
    order = pb.Order(forget=pb.ForgetJob(job="x" * 300))
    accepted = [link.put(pb.MasterMessage(term=n, orders=[order])) for n in range(6)]
    assert accepted[:2] == [True, True]
    assert not accepted[-1]
    assert len([message async for message in link.messages()]) == accepted.count(True)


def test_a_report_too_large_for_the_log_becomes_a_failure_that_says_so() -> None:
    attempt = job_pb2.AttemptId(task=job_pb2.TaskId(job="j", index=1), number=2)
    counters = {f"g:{n}": n for n in range(50_000)}
    huge = pb.WorkerEvent(
        completed=pb.Completed(attempt=attempt, result=job_pb2.TaskResult(counters=counters))
    )
    short = bounded(huge)
    assert short.failed.attempt == attempt
    assert "counters" in short.failed.failure.message
    assert short.ByteSize() < REPORT_BYTES
    failure = job_pb2.Failure(cause=job_pb2.USER_EXIT, message="m" * 10**6, traceback="t" * 10**6)
    short = bounded(pb.WorkerEvent(failed=pb.Failed(attempt=attempt, failure=failure)))
    assert short.failed.failure.cause == job_pb2.USER_EXIT
    assert short.ByteSize() < REPORT_BYTES
    fine = pb.WorkerEvent(completed=pb.Completed(attempt=attempt))
    assert bounded(fine) is fine


@pytest.mark.parametrize(
    "event",
    [
        pb.WorkerEvent(fetch_failed=pb.FetchFailed(worker="w", message="m" * 10**6)),
        pb.WorkerEvent(output_lost=pb.OutputLost(message="m" * 10**6)),
        pb.WorkerEvent(drain=pb.DrainRequest(reason="m" * 10**6)),
    ],
)
def test_no_text_of_a_worker_is_too_large_for_the_log(event: pb.WorkerEvent) -> None:
    assert bounded(event).ByteSize() < 10_000
    assert bounded(event).WhichOneof("kind") == event.WhichOneof("kind")


def test_a_worker_with_endless_labels_is_not_let_in() -> None:
    assert why_too_large(pb.Attach(worker="w1", labels=["ssd", "map"])) == ""
    assert why_too_large(pb.Attach(worker="w1", labels=["x"] * 1000))
    assert why_too_large(pb.Attach(worker="w" * 1000))


async def test_one_command_that_can_never_be_committed_does_not_stop_the_others() -> None:
    huge = table_pb2.Command(expire=table_pb2.ExpireJob(job="x" * 2_000_000))
    driver, leader, consensus, _ = rig({le.Elected: [le.Propose(1, [*big(1), huge, *big(1)])]})
    lead(driver)
    await settle()
    assert [len(entry.commands) for entry in consensus.entries] == [2]
    assert leader.told[-1] == le.Proposed(1, le.Outcome.APPLIED)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
