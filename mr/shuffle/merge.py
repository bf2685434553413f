"""Many sorted runs become one, in bounded memory: groups by ascending key, values in (run, position) order.

The order of the runs is the caller's: map index order on the reduce side, spill order on the map side. With
it the result depends on the data alone (D11), never on when a run arrived. No more than `FAN_IN` runs are
merged at once; more take passes over files of our own (FD23). `FAN_IN` is a constant and not a setting of the
machine, since with a combiner the passes could be seen in the result (a sum of floats).

How it is fast without native code: every round takes from each run all groups below the smallest of the runs'
last keys in memory, and hands their concatenation to `sorted`, which recognizes the sorted stretches and
merges them in C. Only a key that may go on in the next block, one a round, is walked run by run.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mr.causes import Cause
from mr.codec import NotAPair, Values, decode_key, encode_key, encode_sort_key, has_key, split_sort_key
from mr.shuffle.blocks import Damaged, RegionReader, RegionWriter, seal
from mr.shuffle.segment import SegmentWriter, index_path, owner

T = TypeVar("T")

FAN_IN = 32  # times a decoded block of at most some 800 KiB: the memory of a merge

# A group: its encoded key, and its values as lists one behind the other. Read a group before taking the next.
Group = tuple[bytes, Iterable[Sequence[Any]]]
Combine = Callable[[Any, Iterator[Any]], Iterable[Any] | None]


class CorruptData(Damaged):
    """A map output that was damaged on its way to this merge: `map` and `attempt` name whose."""

    def __init__(self, damage: Damaged, map: int, attempt: int) -> None:
        super().__init__(
            damage.path, damage.partition, damage.offset, f"{damage.reason} (map {map} attempt {attempt})"
        )
        self.map = map
        self.attempt = attempt


class Run(Protocol):
    """One region of one map's output in a local file: `mr.rpc.job_pb2.Run` fits."""

    map: int
    attempt: int
    path: str
    offset: int
    length: int


class Cursor:
    """Where a merge stands in one run: the groups of the block in memory, and the first one not yet taken."""

    __slots__ = ("_origin", "_reader", "at", "keys", "lists")

    def __init__(self, reader: RegionReader, origin: tuple[int, int] | None = None) -> None:
        self._reader = reader
        self._origin = origin
        self.keys: Sequence[bytes] = ()
        self.lists: Sequence[Sequence[Any]] = ()
        self.at = 0

    def more(self) -> bool:
        """Whether a group is left; loads the next block if it must. Raises Damaged."""
        while self.at >= len(self.keys):
            try:
                block = self._reader.next_block()
            except Damaged as damage:
                if self._origin is None:
                    raise
                raise CorruptData(damage, *self._origin) from None
            if block is None:
                self.keys, self.lists, self.at = (), (), 0
                return False
            (self.keys, self.lists), self.at = block, 0
        return True

    @property
    def reader(self) -> RegionReader:
        """The run itself: tells about the block in memory."""
        return self._reader


class Merge:
    """Iterates over all groups of some runs, each key once. Raises Damaged.

    While a group is in hand, `plain` says that its values are plain, and `record_bytes` bounds their mean
    size.
    """

    def __init__(self, cursors: Sequence[Cursor]) -> None:
        self._cursors = cursors
        self.plain = True
        self.record_bytes = 0

    def __iter__(self) -> Iterator[Group]:
        for keys, lists, hot in self._rounds():
            yield from _grouped(keys, lists)
            if hot is not None:
                yield hot

    def batches(self) -> Iterator[tuple[Sequence[bytes], Sequence[Sequence[Any]]]]:
        """The same in larger pieces: keys in order, equal ones one behind the other, and the values of each."""
        for keys, lists, hot in self._rounds():
            yield keys, lists
            if hot is not None:
                for values in hot[1]:
                    yield (hot[0],), (values,)

    def _rounds(self) -> Iterator[tuple[list[bytes], list[Sequence[Any]], Group | None]]:
        """Sorted stretches of groups, with the one key behind each that may not be in memory as a whole."""
        live = [cursor for cursor in self._cursors if cursor.more()]
        while live:
            self.plain = all(cursor.reader.plain for cursor in live)
            self.record_bytes = max(cursor.reader.record_bytes for cursor in live)
            # Below `bound` everything is in memory: no block still to come can hold a smaller key.
            bound = min((cursor.keys[-1] for cursor in live if not cursor.reader.last), default=None)
            keys: list[bytes] = []
            lists: list[Sequence[Any]] = []
            for cursor in live:
                end = len(cursor.keys) if bound is None else bisect_left(cursor.keys, bound, cursor.at)
                keys += cursor.keys[cursor.at : end]
                lists += cursor.lists[cursor.at : end]
                cursor.at = end
            if len(live) > 1:
                order = sorted(range(len(keys)), key=keys.__getitem__)
                keys, lists = [keys[i] for i in order], [lists[i] for i in order]
            if bound is None:
                yield keys, lists, None
            else:
                rest = self._walk(live, bound)
                yield keys, lists, (bound, rest)
                for _ in rest:  # what the reader of the group left unread
                    pass
            live = [cursor for cursor in live if cursor.more()]

    def _walk(self, live: Sequence[Cursor], key: bytes) -> Iterator[Sequence[Any]]:
        for cursor in live:
            while cursor.more() and cursor.keys[cursor.at] == key:
                values = cursor.lists[cursor.at]
                cursor.at += 1
                self.plain = self.plain and cursor.reader.plain
                self.record_bytes = max(self.record_bytes, cursor.reader.record_bytes)
                yield values


def _grouped(keys: list[bytes], lists: list[Sequence[Any]]) -> Iterator[Group]:
    current: bytes | None = None
    found: list[Sequence[Any]] = []
    for key, values in zip(keys, lists, strict=True):
        if key == current:
            found.append(values)
            continue
        if current is not None:
            yield current, found
        current, found = key, [values]
    if current is not None:
        yield current, found


def decoded(merge: Iterable[Group], *, sort_values: bool) -> Iterator[tuple[Any, Iterable[Sequence[Any]]]]:
    """Groups by the keys that users know. With `sort_values` runs are sorted by (key, value): joined here by key."""
    if not sort_values:
        for key, lists in merge:
            yield decode_key(key), lists
        return
    groups = iter(merge)
    head: list[Group | None] = [next(groups, None)]
    while head[0] is not None:
        key, prefix = split_sort_key(head[0][0])
        rest = _same_prefix(groups, head, prefix)
        yield key, rest
        for _ in rest:
            pass


def _same_prefix(groups: Iterator[Group], head: list[Group | None], prefix: bytes) -> Iterator[Sequence[Any]]:
    while head[0] is not None and has_key(head[0][0], prefix):
        yield from head[0][1]
        head[0] = next(groups, None)


def rewrite(merge: Merge, region: RegionWriter, combining: Combining | None, *, sort_values: bool) -> None:
    """Write all groups of a merge into a region, combined if the job combines."""
    if combining is None:
        for keys, held in merge.batches():
            region.add_all(keys, held, merge.plain, merge.record_bytes)
        return
    for name, lists in decoded(merge, sort_values=sort_values):
        combining.into(region, name, chain.from_iterable(lists), sort_values=sort_values)


class Combining:
    """A combiner and how often it was called with what: records_in - ins + outs is what is left of them."""

    def __init__(self, combine: Combine, values: Values) -> None:
        self._combine = combine
        self._values = values
        self.ins = self.outs = 0

    def pairs(self, key: Any, values: Iterable[Any]) -> Iterator[Any]:
        """What the combiner makes of one group: values, under the same key. Raises what user code raises."""
        given = self._counted(values)
        for pair in self._combine(key, given) or ():
            yield self._value(key, pair)
        for _ in given:  # what it did not read is dropped, but was its input
            pass

    def fold(self, key: Any, values: list[Any]) -> list[Any]:
        """The same for a group in memory."""
        self.ins += len(values)
        return [self._value(key, pair) for pair in self._combine(key, iter(values)) or ()]

    def _value(self, key: Any, pair: Any) -> Any:
        if type(pair) is not tuple or len(pair) != 2:
            raise NotAPair(f"a combiner must yield (key, value) pairs, not {pair!r:.100}")
        if pair[0] is not key and encode_key(pair[0]) != encode_key(key):
            raise ChangedKey(f"a combiner must keep its key: given {key!r:.100}, it yielded {pair[0]!r:.100}")
        self.outs += 1
        return pair[1]

    def into(self, region: RegionWriter, key: Any, values: Iterable[Any], *, sort_values: bool) -> None:
        """Combine one group and write what comes of it."""
        frozen = [self._values.freeze(value) for value in self.pairs(key, values)]
        if sort_values:
            rows = sorted(((encode_sort_key(key, row[0]), row) for row in frozen), key=lambda pair: pair[0])
            for name, (value, size, plain) in rows:
                region.add(name, [value], plain, size)
        elif frozen:
            plain = all(row[2] for row in frozen)
            region.add(encode_key(key), [row[0] for row in frozen], plain, sum(row[1] for row in frozen))

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.ins += 1
            yield value


class ChangedKey(ValueError):
    """A combiner yielded another key than it was given: its pairs could not stay in order."""

    cause = Cause.USER_EXCEPTION


def narrow(items: list[T], join: Callable[[Sequence[T]], T]) -> list[T]:
    """Join neighbours until at most FAN_IN are left, in order, no more often than needed."""
    items, at = list(items), 0
    while len(items) > FAN_IN:
        width = min(FAN_IN, len(items) - FAN_IN + 1)
        if at + width > len(items):
            at = 0
        items[at : at + width] = [join(items[at : at + width])]
        at += 1
    return items


def groups(
    runs: Sequence[Run],
    scratch: Path,
    *,
    job: str,
    step: int,
    partition: int,
    sort_values: bool = False,
    allow_pickle: bool = False,
    combine: Combine | None = None,
) -> Iterator[tuple[Any, Iterator[Any]]]:
    """What a reduce sees: (key, values) by ascending key. `runs` stand in map order.

    The values of a key are streamed: read them before the next key, or they are gone. Raises CorruptData,
    OSError.
    """
    values = Values(allow_pickle=allow_pickle)
    combining = Combining(combine, values) if combine else None
    numbers, made = count(), set[Path]()

    def join(cursors: Sequence[Cursor]) -> Cursor:
        path = scratch / f"merge-{next(numbers):05d}.run"
        made.add(path)
        with SegmentWriter(path, b"merge", values) as segment:
            rewrite(Merge(cursors), segment.begin(), combining, sort_values=sort_values)
            segment.end()
        for spent in made.intersection(cursor.reader.path for cursor in cursors):
            _remove(spent)
            made.discard(spent)
        return Cursor(segment.reader(0))

    cursors = [
        Cursor(
            RegionReader(
                run.path,
                run.offset,
                run.length,
                seal(owner(job, step, run.map, run.attempt), partition),
                values,
                partition,
            ),
            (run.map, run.attempt),
        )
        for run in runs
    ]
    try:
        merge = Merge(narrow(cursors, join))
        if sort_values:
            for key, lists in decoded(merge, sort_values=True):
                yield key, chain.from_iterable(lists)
        else:
            for name, lists in merge:
                yield decode_key(name), chain.from_iterable(lists)
    finally:
        for path in made:
            _remove(path)


def _remove(run: Path) -> None:
    run.unlink(missing_ok=True)
    index_path(run).unlink(missing_ok=True)
