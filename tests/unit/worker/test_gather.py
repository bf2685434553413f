"""A reduce gets every current map output exactly once, however the news and the calls come and go (T9, FD1)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mr.rpc import session_pb2 as session
from mr.rpc import task_pb2 as task
from worker.gather import CALLS_PER_REDUCE, RETRY_MOST_S, Gather, Locations

MAPS = 4


def item(m: int, attempt: int, worker: int, *, lost: bool = False) -> session.MapOutput:
    return session.MapOutput(map=m, attempt=attempt, worker=f"w{worker}", address=f"w{worker}:1", lost=lost)


def history(moves: list[tuple[int, int]]) -> list[session.MapOutput]:
    """A legal log: maps complete, are lost, complete again elsewhere; at the end all are complete."""
    log: list[session.MapOutput] = []
    attempts = dict.fromkeys(range(MAPS), 0)
    at: dict[int, int] = {}
    for m, worker in [*moves, *((m, 0) for m in range(MAPS))]:
        if m in at:
            if (m, worker) in moves:
                log.append(item(m, attempts[m], at.pop(m), lost=True))
        else:
            attempts[m] += 1
            at[m] = worker
            log.append(item(m, attempts[m], worker))
    for m in range(MAPS):
        if m not in at:
            attempts[m] += 1
            log.append(item(m, attempts[m], 1))
    return log


@given(
    moves=st.lists(st.tuples(st.integers(0, MAPS - 1), st.integers(0, 3)), max_size=24),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    works=st.lists(st.booleans(), min_size=1, max_size=40),
    repeat=st.integers(0, 5),
)
@settings(deadline=None)
def test_it_ends_with_the_winners_and_nothing_else(
    moves: list[tuple[int, int]], cuts: list[int], works: list[bool], repeat: int
) -> None:
    log = history(moves)
    locations = Locations()
    gather = Gather(MAPS, locations)
    now, start, flips = 0.0, 0, iter(works * 1000)
    ends = sorted({min(cut, len(log)) for cut in cuts} | {len(log)})
    in_flight: list[tuple[str, list[tuple[int, int]]]] = []
    for end in ends:
        begin = max(0, start - repeat)  # a leader may repeat itself
        message = session.MapOutputs(from_sequence=begin, outputs=log[begin:end])
        changed = locations.learn(message)
        assert changed is not None
        gather.changed(changed)
        start = end
        for _ in range(3):
            in_flight += [(worker, wanted) for worker, _, wanted in gather.calls(now)]
            assert len(in_flight) <= CALLS_PER_REDUCE
            assert len({worker for worker, _ in in_flight}) == len(in_flight), "one call to a peer at a time"
            if in_flight:
                worker, wanted = in_flight.pop()
                brought = [task.Run(map=m, attempt=a) for m, a in wanted if next(flips)]
                gather.ended(worker, brought, now)
            now += 1.0
    while not gather.complete:  # from here on everything works
        now += RETRY_MOST_S
        in_flight += [(worker, wanted) for worker, _, wanted in gather.calls(now)]
        assert in_flight, "it waits for nothing"
        worker, wanted = in_flight.pop()
        gather.ended(worker, [task.Run(map=m, attempt=a) for m, a in wanted], now)
    expected = {m: location.attempt for m, location in locations.current.items()}
    assert {run.map: run.attempt for run in gather.runs()} == expected
    assert [run.map for run in gather.runs()] == list(range(MAPS)), "in map order (D11)"


def test_a_peer_that_fails_is_left_alone_for_longer_and_longer() -> None:
    locations = Locations()
    locations.learn(session.MapOutputs(outputs=[item(0, 1, 1)]))
    gather = Gather(1, locations)
    pauses, now = [], 0.0
    for _ in range(8):
        before = now
        while not (calls := gather.calls(now)):
            now += 0.25
        pauses.append(now - before)
        gather.ended(calls[0][0], [], now)
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


def test_a_new_address_is_tried_at_once() -> None:
    locations = Locations()
    locations.learn(session.MapOutputs(outputs=[item(0, 1, 1)]))
    gather = Gather(1, locations)
    gather.calls(0.0)
    gather.ended("w1", [], 0.0)
    assert gather.calls(0.1) == []
    news = [item(0, 1, 1, lost=True), session.MapOutput(map=0, attempt=2, worker="w1", address="w1:2")]
    changed = locations.learn(session.MapOutputs(from_sequence=1, outputs=news))
    assert changed == {0}
    gather.changed(changed)
    assert gather.calls(0.2) == [("w1", "w1:2", [(0, 2)])]


def test_items_of_the_future_are_not_believed() -> None:
    assert Locations().learn(session.MapOutputs(from_sequence=1, outputs=[item(0, 1, 1)])) is None
