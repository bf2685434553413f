"""Is a history of concurrent operations linearizable (C11)? The search of Wing and Gong with Lowe's memory.

An operation takes effect at one instant between its invocation and its return. `ok` operations must take effect
and give their answer; `fail` ones never did; `info` ones (a timeout) may take effect at any time after they were
invoked, or never. Sources: Wing & Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for
linearizability" (2017): a configuration (set of operations done, state) that failed once is never entered again.

Some observations keep the search short where many operations have no answer. An answered operation that fits now,
changes nothing and never will (a read) may as well come now: nothing else is tried. Operations without an answer that
ask for the same are interchangeable, only the earliest is tried; and one whose effect is gone with the next operation
need not have happened. A configuration that has used up more of them than another with the same rest can do no more
than that one: it is not entered. What is still too much is looked at in parts: a part that no order explains, whatever
was before it, refutes the whole.

Histories are checked per key: a history is linearizable if and only if each object's part is (Herlihy & Wing 1990).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace

from jepsen_like.operation import Model, Operation, frozen
from jepsen_like.register import Register
from jepsen_like.verdict import Outcome, Verdict

__all__ = ["Model", "Operation", "Register", "check", "linearize"]

BUDGET = 1_000_000  # steps tried per key before the checker says unknown: some seconds, some hundred MB
TOTAL = 4_000_000  # over all keys
LEAST = 20_000  # for each key, whatever the others have used up
PARTS = 500_000  # for refuting it by a part of it
WINDOWS = (2, 8, 40)  # answered operations looked at by themselves when the whole is too much


class _Event:
    """A call or a return in a doubly linked list, so that an operation is lifted out and put back in O(1)."""

    __slots__ = ("following", "match", "number", "previous", "t")

    def __init__(self, number: int, t: float) -> None:
        self.number = number
        self.t = t
        self.match: _Event | None = None  # a call's return
        self.previous: _Event = self
        self.following: _Event | None = None


def _link(operations: Sequence[Operation]) -> _Event:
    """The events of answered operations in time order behind a head. At equal times calls come first: such
    operations may overlap."""
    times: list[tuple[float, int, _Event]] = []
    for number, operation in enumerate(operations):
        if operation.returned is not None:
            call, end = _Event(number, operation.invoked), _Event(number, operation.returned)
            call.match = end
            times += [(call.t, 0, call), (end.t, 1, end)]
    times.sort(key=lambda entry: entry[:2])
    head = last = _Event(-1, float("-inf"))
    for _, _, event in times:
        last.following, event.previous = event, last
        last = event
    return head


def _take_out(call: _Event) -> None:
    for event in (call, call.match):
        assert event is not None  # only answered operations are in the list
        event.previous.following = event.following
        if event.following:
            event.following.previous = event.previous


def _put_back(call: _Event) -> None:
    for event in (call.match, call):
        assert event is not None  # see above
        event.previous.following = event
        if event.following:
            event.following.previous = event


class _Search:
    """One key's history. `answered` operations stand in a list, those without an answer in groups of equals."""

    def __init__(self, operations: Sequence[Operation], model: Model, budget: int, lax: bool) -> None:
        self.operations, self.model, self.left, self.lax = operations, model, budget, lax
        self.head = _link(operations)
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for number in sorted(range(len(operations)), key=lambda n: operations[n].invoked):
            operation = operations[number]
            if operation.returned is None:
                groups[operation.action, frozen(operation.value)].append(number)
        self.groups = list(groups.values())
        self.used = [0] * len(self.groups)
        self.required = sum(operation.returned is not None for operation in operations)
        self.best: list[int] = []
        self.stuck = -1
        self.names: dict[Hashable, int] = {model.initial: 0}  # states, numbered: they are kept many times
        # (answered operations done, state) -> how many of each group were used up: none has all that another has
        self.seen: dict[tuple[int, int, int], list[tuple[int, ...]]] = {}
        self.entered: set[tuple[int, int, int]] = set()  # the same where every operation was answered

    def choices(
        self, state: Hashable, before: Hashable | None, depth: int
    ) -> Iterator[tuple[_Event | int, Hashable]]:
        """What may take effect next: a call, or the number of a group; and the state after it. `before` is the state
        before the operation just done when that one had no answer: what follows must need it."""
        operations, fitting = self.operations, []
        event = self.head.following
        while event is not None and event.match is not None:
            after = self._step(state, before, event.number)
            if after is not None and after == state and self.model.idle(operations[event.number]):
                yield event, after
                return  # whatever can come before it can come after it, too
            if after is not None:
                fitting.append((event, after))
            event = event.following
        until = event.t if event is not None else float("inf")
        yield from fitting
        for number in reversed(range(len(self.groups))):  # what was asked last has rather been done last
            group, used = self.groups[number], self.used[number]
            if used < len(group) and operations[group[used]].invoked <= until:
                after = self._step(state, before, group[used])
                if after is not None and after != state:
                    yield number, after
        if event is not None and depth >= len(self.best):
            self.stuck = event.number

    def _step(self, state: Hashable, before: Hashable | None, number: int) -> Hashable | None:
        """The state after one more operation; None when it is impossible, or would come to the same from `before`."""
        self.left -= 1
        operation = self.operations[number]
        after = self.model.step(state, operation)
        if before is not None and after is not None and self.model.step(before, operation) == after:
            return None
        return after

    def entered_before(self, done: int, state: Hashable) -> bool:
        """Whether a configuration that could do all that this one can has been entered; notes this one."""
        low = (~done & (done + 1)).bit_length() - 1  # operations below it are all done: they need no bits
        here = low, done >> low, self.names.setdefault(state, len(self.names))
        if self.lax or not self.groups:
            if here in self.entered:
                return True
            self.entered.add(here)
            return False
        used = tuple(self.used)
        known = self.seen.setdefault(here, [])
        self.left -= len(known)
        if any(all(a <= b for a, b in zip(one, used, strict=True)) for one in known):
            return True
        known.append(used)
        return False


def linearize(
    operations: Sequence[Operation], model: Model, budget: int = BUDGET, *, lax: bool = False
) -> tuple[Outcome, list[int], int]:
    """Searches one key's history. Returns the outcome, the longest order found (numbers of operations) and the number
    of the operation whose return could not be reached (-1 when there is none). `lax` lets an operation without an
    answer take effect again and again: what is invalid even then is invalid, and that is found sooner."""
    if (nowhere := model.impossible(operations)) >= 0:
        return Outcome.INVALID, [], nowhere
    operations = model.simplified(operations)
    search = _Search(operations, model, budget, lax)
    places = _places(operations)
    done = 0
    frames = [search.choices(model.initial, None, 0)]
    states: list[Hashable] = [model.initial]
    taken: list[_Event | int] = []
    order: list[int] = []
    while search.required:
        if search.left < 0:
            return Outcome.UNKNOWN, search.best, search.stuck
        choice = next(frames[-1], None)
        if choice is None:
            if len(order) > len(search.best):
                search.best = list(order)
            frames.pop()
            states.pop()
            if not frames:
                return Outcome.INVALID, search.best, search.stuck
            done = _undo(search, taken.pop(), order.pop(), places, done)
            continue
        what, state = choice
        number = search.groups[what][search.used[what]] if isinstance(what, int) else what.number
        done = _do(search, what, number, places, done)
        if search.entered_before(done, state):
            done = _undo(search, what, number, places, done)
            continue
        taken.append(what)
        order.append(number)
        frames.append(search.choices(state, states[-1] if isinstance(what, int) else None, len(order)))
        states.append(state)
    return Outcome.VALID, order, -1


def _places(operations: Sequence[Operation]) -> list[int]:
    """The bit of each answered operation, in the order of invocation, so that what is done is a prefix and a bit."""
    answered = [n for n, operation in enumerate(operations) if operation.returned is not None]
    places = [0] * len(operations)
    for place, number in enumerate(sorted(answered, key=lambda n: operations[n].invoked)):
        places[number] = place
    return places


def _do(search: _Search, what: _Event | int, number: int, places: Sequence[int], done: int) -> int:
    if isinstance(what, int):
        search.used[what] += not search.lax
        return done
    _take_out(what)
    search.required -= 1
    return done | 1 << places[number]


def _undo(search: _Search, what: _Event | int, number: int, places: Sequence[int], done: int) -> int:
    if isinstance(what, int):
        search.used[what] -= not search.lax
        return done
    _put_back(what)
    search.required += 1
    return done & ~(1 << places[number])


def check(
    operations: Iterable[Operation],
    model: Model,
    budget: int = BUDGET,
    *,
    denied: Sequence[Operation] = (),
) -> Verdict:
    """Every key on its own. The excerpt of a violation is the operation that cannot be placed and those around it;
    `denied` are calls that are said not to have happened: they are shown, for one of them may have."""
    keys: dict[Hashable, list[Operation]] = defaultdict(list)
    for operation in operations:
        keys[operation.key].append(operation)
    counted = {"keys": len(keys), "operations": sum(map(len, keys.values()))}
    left = TOTAL
    gave_up = []
    for key, history in sorted(keys.items(), key=lambda item: len(item[1])):
        allowed = min(budget, max(left, LEAST))
        outcome, order, stuck = linearize(history, model, allowed)
        left -= allowed if outcome is Outcome.UNKNOWN else len(history)
        shown: Sequence[Operation] = history
        size = f"its {len(history)} operations"
        if outcome is Outcome.UNKNOWN and (refuted := _refuted(history, model, stuck)):
            outcome, (shown, order, stuck) = Outcome.INVALID, refuted
            size = f"{len(shown)} operations of its {len(history)}"
        if outcome is Outcome.INVALID:
            return Verdict(
                checker="linearizability",
                outcome=outcome,
                invariants=("C11",),
                reason=f"key {key!r}: no order of {size} explains every answer",
                excerpt=_excerpt(shown, order, stuck, [one for one in denied if one.key == key]),
                counted=counted,
            )
        if outcome is Outcome.UNKNOWN:
            gave_up.append(f"key {key!r}: gave up on {len(history)} operations after {allowed:,} steps")
    reason = "; ".join(gave_up[:3]) if gave_up else ""
    if not counted["operations"]:
        reason = "no operation was recorded"
    return Verdict(
        checker="linearizability",
        outcome=Outcome.UNKNOWN if reason else Outcome.VALID,
        invariants=("C11",),
        reason=reason,
        counted=counted,
    )


def _refuted(
    history: Sequence[Operation], model: Model, near: int
) -> tuple[Sequence[Operation], list[int], int] | None:
    """Operations that no order explains, be it that those without an answer happen at will, be it that nobody knows
    what was before: then none explains the whole. With the longest order found and what is stuck. Looks first where
    the search got stuck, `near` that operation."""
    somewhere = model.anywhere()
    windows = _Windows(history)
    middle = bisect_left(windows.began, history[near].invoked)
    left = PARTS
    for width in WINDOWS if somewhere is not None else ():
        starts = range(0, len(windows.answered), max(1, width // 4))
        for start in sorted(starts, key=lambda at: abs(at + width // 2 - middle))[:400]:
            window = windows.at(start, width)
            assert somewhere is not None  # the loop is empty without it
            outcome, order, stuck = linearize(window, somewhere, LEAST, lax=True)
            if outcome is Outcome.INVALID:
                return window, order, stuck
            left -= LEAST if outcome is Outcome.UNKNOWN else width * 10
            if left < 0:
                break
    outcome, order, stuck = linearize(history, model, PARTS, lax=True)
    return (history, order, stuck) if outcome is Outcome.INVALID else None


class _Windows:
    """Parts of a history, each with all that may have taken effect in it."""

    def __init__(self, history: Sequence[Operation]) -> None:
        self.answered = sorted((op for op in history if op.returned is not None), key=lambda op: op.invoked)
        self.began = [op.invoked for op in self.answered]
        self._longest = max(((op.returned or 0) - op.invoked for op in self.answered), default=0)
        self._lost = sorted((op for op in history if op.returned is None), key=lambda op: op.invoked)
        self._lost_began = [op.invoked for op in self._lost]

    def at(self, start: int, width: int) -> list[Operation]:
        """`width` answered operations from `start` on. What began before the first of them or ended after the last
        counts as unanswered."""
        chosen = self.answered[start : start + width]
        begin = chosen[0].invoked
        end = max(op.returned for op in chosen if op.returned is not None)
        first, last = bisect_left(self.began, begin - self._longest), bisect_right(self.began, end)
        beside = [
            replace(op, returned=None, result=None)
            for op in (*self.answered[first:start], *self.answered[start + width : last])
            if op.returned is not None and op.returned >= begin and op.action != "read"
        ]
        return [*chosen, *beside, *self._lost[: bisect_right(self._lost_began, end)]]


def _excerpt(
    history: Sequence[Operation], order: Sequence[int], stuck: int, denied: Sequence[Operation]
) -> tuple[str, ...]:
    culprit = history[stuck]
    placed = [history[number] for number in order[-2:]]
    until = culprit.returned if culprit.returned is not None else float("inf")
    beside = [
        f"concurrent: {other}"
        for number, other in enumerate(history)
        if number != stuck
        and number not in order[-2:]
        and other.invoked <= until
        and (other.returned is None or other.returned >= culprit.invoked)
    ]
    since = min((one.invoked for one in placed), default=float("-inf"))
    said_no = [f"refused: {one}" for one in denied if one.invoked <= until and (one.returned or 0) >= since]
    return (
        *(f"in order so far: {one}" for one in placed),
        *beside[:3],
        *said_no[-2:],
        f"cannot be placed: {culprit}",
    )
