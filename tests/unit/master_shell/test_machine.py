"""The state machine around the table: equal bytes, equal state, whatever the bytes are."""

from __future__ import annotations

import hashlib

from hypothesis import example, given
from hypothesis import strategies as st

from master.events import Refused, TableRestored
from master.machine import AppliedEntry, Machine
from master.task_table import TaskTable
from mr.rpc import job_pb2
from mr.rpc import table_pb2 as pb


def machine() -> Machine:
    return Machine(TaskTable())


def submit(job: str, term: int = 7) -> bytes:
    spec = job_pb2.JobSpec(
        job_id=job,
        name="j",
        steps=[job_pb2.Step(mapper="m", reducer="r", reduces=1, partitioner="hash")],
        maps=1,
        code_digest=b"c" * 32,
        splits_digest=b"s" * 32,
        output=job_pb2.Output(path=f"/out/{job}"),
        staging=f"/.out.{job}",
        job_file="j.py",
    )
    return pb.Entry(
        term=term, commands=[pb.Command(submit=pb.SubmitJob(spec=spec, request_id=job))]
    ).SerializeToString()


def parts(data: bytes, count: int, digest: bytes | None = None) -> list[bytes]:
    size = -(-len(data) // count)
    digest = hashlib.sha256(data).digest() if digest is None else digest
    return [
        pb.Entry(
            term=2,
            restore=pb.RestorePart(
                number=n, parts=count, data=data[n * size : (n + 1) * size], digest=digest
            ),
        ).SerializeToString()
        for n in range(count)
    ]


def saved_table() -> bytes:
    old = machine()
    old.apply(90, submit("j1"))
    return old.table.snapshot()()


@given(st.lists(st.binary(max_size=200), max_size=5))
@example([b"\x08\x08"])  # an entry of term 8, and nothing else
def test_no_bytes_can_stop_it_and_two_replicas_agree(entries: list[bytes]) -> None:
    """C6: `apply` never raises; what comes afterwards, in the term that has begun by then, has its effect."""
    one, two = machine(), machine()
    for index, entry in enumerate(entries, 1):
        assert one.apply(index, entry).results == two.apply(index, entry).results
    last = submit("j1", term=max(7, one.table.term))
    assert one.apply(len(entries) + 1, last).results == two.apply(len(entries) + 1, last).results
    assert one.table.digest() == two.table.digest()
    assert "j1" in one.table.jobs


def test_listeners_are_told_in_order_and_see_the_table_as_it_stands() -> None:
    here, seen = machine(), []
    here.listen(lambda applied: seen.append((applied.index, here.table.index, len(here.table.jobs))))
    here.apply(3, submit("j1"))
    here.apply(4, submit("j2"))
    assert seen == [(3, 3, 1), (4, 4, 2)]


def test_a_snapshot_is_a_copy_and_brings_everything_back() -> None:
    """C7."""
    here, told = machine(), []
    here.apply(3, submit("j1"))
    serialise = here.snapshot()
    here.apply(4, submit("j2"))
    other = machine()
    other.listen(lambda _: None, lambda: told.append(other.applied))
    other.restore(serialise())
    assert list(other.table.jobs) == ["j1"]
    assert (other.applied, told) == (3, [3])
    other.apply(4, submit("j2"))
    assert other.table.digest() == here.table.digest()


def test_a_saved_table_comes_back_through_the_log_in_pieces() -> None:
    """S4-22: at the index and in the term of the new cluster, on every replica alike."""
    here, entries = machine(), parts(saved_table(), 3)
    results = [here.apply(5 + n, entry) for n, entry in enumerate(entries)]
    assert [last(result) for result in results[:2]] == [TableRestored(done=False, jobs=0)] * 2
    assert last(results[2]) == TableRestored(done=True, jobs=1)
    assert (here.table.index, here.table.term) == (7, 2)
    here.table.check()
    assert not isinstance(here.apply(8, submit("j2")).results[0][0], Refused)


def test_a_snapshot_between_two_pieces_loses_nothing() -> None:
    """C7: a replica that restarts in the middle of a restore ends where the others do."""
    entries = parts(saved_table(), 2)
    here, other = machine(), machine()
    here.apply(5, entries[0])
    other.restore(here.snapshot()())
    assert (
        last(here.apply(6, entries[1]))
        == last(other.apply(6, entries[1]))
        == TableRestored(done=True, jobs=1)
    )
    assert here.table.digest() == other.table.digest()


def test_a_restore_that_cannot_be_changes_nothing() -> None:
    good = parts(saved_table(), 2)
    wrong_digest = parts(saved_table(), 1, digest=b"x" * 32)
    junk = parts(b"no table at all", 1)
    rows = [
        ("pieces out of turn", [], [good[1]]),
        ("another digest than its content", [], wrong_digest),
        ("bytes that are no table", [], junk),
        ("into a cluster that has had jobs", [submit("here")], parts(saved_table(), 1)),
    ]
    for promise, before, entries in rows:
        here = machine()
        for index, entry in enumerate(before, 1):
            here.apply(index, entry)
        jobs = list(here.table.jobs)
        result = [here.apply(10 + n, entry) for n, entry in enumerate(entries)][-1]
        assert isinstance(last(result), Refused), promise
        assert list(here.table.jobs) == jobs, promise


def test_a_restore_begun_anew_forgets_the_half_of_the_last_one() -> None:
    entries = parts(saved_table(), 2)
    here = machine()
    here.apply(5, entries[0])
    here.apply(6, entries[0])
    assert last(here.apply(7, entries[1])) == TableRestored(done=True, jobs=1)


def last(applied: AppliedEntry) -> object:
    return applied.results[-1][0]
