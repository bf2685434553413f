"""The search for an order that explains one object's history: that of Wing and Gong with Lowe's memory.

Sources: Wing & Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017): a
configuration (set of operations done, state) that failed once is never entered again.

Some observations keep the search short where many operations are under way at once, or have no answer. An answered
operation that fits now, changes nothing and never will (a read) may as well come now: nothing else is tried. Of
operations that ask for the same and are answered the same, the one that must be over first may as well come first.
A state is not left that is still needed by a call that ends before anything left to do could bring it back.
Operations without an answer that ask for the same are interchangeable, only the earliest is tried; and one whose
effect is gone with the next operation need not have happened. A configuration that has used up more of them than
another with the same rest can do no more than that one: it is not entered.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence

from jepsen_like.operation import Model, Operation, frozen
from jepsen_like.verdict import Outcome

BUDGET = 1_000_000  # steps tried before the search says unknown: some seconds, some hundred MB


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
        numbers: dict[Hashable, int] = {}
        self.kinds = [
            numbers.setdefault((one.action, frozen(one.value), frozen(one.result)), len(numbers))
            for one in operations
        ]
        self.used = [0] * len(self.groups)
        self.makes = [model.makes(one) for one in operations]
        self.needs = [model.needs(one) if one.returned is not None else None for one in operations]
        # of each state: when what may still bring it about begins, and when what still needs it ends; ascending
        self.makers: dict[Hashable, list[float]] = defaultdict(list)
        self.needed: dict[Hashable, list[float]] = defaultdict(list)
        for number in range(len(operations)):
            self.left_to_do(number)
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
        operations = self.operations
        fitting: dict[int, tuple[_Event, Hashable]] = {}  # of equal ones, the one that ends first
        event = self.head.following
        while event is not None and event.match is not None:
            kind = self.kinds[event.number]
            if kind in fitting:
                rival, after = fitting[kind]
                assert rival.match is not None  # it is a call
                if event.match.t < rival.match.t:
                    fitting[kind] = event, after
                event = event.following
                continue
            step = self._step(state, before, event.number)
            if step is not None and step == state and self.model.idle(operations[event.number]):
                yield event, step
                return  # whatever can come before it can come after it, too
            if step is not None:
                fitting[kind] = event, step
            event = event.following
        until = event.t if event is not None else float("inf")
        yield from sorted(fitting.values(), key=lambda choice: self._urgency(choice, event))
        for number in reversed(range(len(self.groups))):  # what was asked last has rather been done last
            group, used = self.groups[number], self.used[number]
            if used < len(group) and operations[group[used]].invoked <= until:
                after = self._step(state, before, group[used])
                if after is not None and after != state:
                    yield number, after
        if event is not None and depth >= len(self.best):
            self.stuck = event.number

    def _urgency(self, choice: tuple[_Event, Hashable], first: _Event | None) -> tuple[int, float]:
        """What to try first: the call that must be over `first`, what brings about the state that it needs, what must
        be over next. Most histories are explained so without a way back."""
        call, after = choice
        assert call.match is not None  # it is a call
        helps = first is not None and self.needs[first.number] == after
        return 0 if call.match is first else 1 if helps else 2, call.match.t

    def _step(self, state: Hashable, before: Hashable | None, number: int) -> Hashable | None:
        """The state after one more operation; None when it is impossible, or would come to the same from `before`."""
        self.left -= 1
        operation = self.operations[number]
        after = self.model.step(state, operation)
        if before is not None and after is not None and self.model.step(before, operation) == after:
            return None
        return after

    def left_to_do(self, number: int) -> None:
        """An operation has been undone, or was never done."""
        one = self.operations[number]
        if (made := self.makes[number]) is not None:
            insort(self.makers[made], one.invoked)
        if (needed := self.needs[number]) is not None:
            assert one.returned is not None  # nobody knows what others need
            insort(self.needed[needed], one.returned)

    def done(self, number: int) -> None:
        """An operation has been done."""
        one = self.operations[number]
        if (made := self.makes[number]) is not None:
            times = self.makers[made]
            del times[bisect_left(times, one.invoked)]
        if (needed := self.needs[number]) is not None:
            times = self.needed[needed]
            assert one.returned is not None  # see left_to_do
            del times[bisect_left(times, one.returned)]

    def gone_too_soon(self, before: Hashable, after: Hashable) -> bool:
        """Whether a step from `before` to `after` leaves a state that can't come again before the end of a call that
        still needs it."""
        if before == after or not (needed := self.needed[before]):
            return False
        makers = self.makers[before]
        return not makers or needed[0] < makers[0]

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
        if search.gone_too_soon(states[-1], state) or search.entered_before(done, state):
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
        if not search.lax:
            search.used[what] += 1
            search.done(number)
        return done
    _take_out(what)
    search.done(number)
    search.required -= 1
    return done | 1 << places[number]


def _undo(search: _Search, what: _Event | int, number: int, places: Sequence[int], done: int) -> int:
    if isinstance(what, int):
        if not search.lax:
            search.used[what] -= 1
            search.left_to_do(number)
        return done
    _put_back(what)
    search.left_to_do(number)
    search.required += 1
    return done & ~(1 << places[number])
