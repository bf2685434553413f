"""The map side: a mapper's pairs become one segment of R sorted, combined regions, in bounded memory.

Pairs are grouped by key as they come. When their size passes the limit they are combined, and if that freed
less than a quarter, spilled: sorted by encoded key, partitioned, written as a segment of their own. `finish` merges
the spills in order. What is written depends on the pairs and the limit alone: size is counted from the
serialized bytes of each pair, never from memory or time, so every attempt of a map makes the same segment
(D11).

Values of one key stay in emission order. A combiner may be called never, once or many times for a key, with
values or with what it made of them (P-04); records_in - combine_in + combine_out == records_out always (D6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mr.causes import Cause
from mr.codec import STR_TAG, NotAPair, Values, decode_key, encode_key, encode_sort_key
from mr.partition import hash_partition
from mr.shuffle.blocks import RAW_TARGET, RegionWriter
from mr.shuffle.merge import Combine, Combining, Cursor, Merge, narrow, rewrite
from mr.shuffle.segment import SegmentWriter, index_digest, index_path

if TYPE_CHECKING:
    from mr.rpc.job_pb2 import Options

LIMIT_BYTES = 32 << 20
_LIMIT_MIN = 1 << 20
# What a pair costs beside its own bytes. Part of the spill rule: changing them changes where spills fall.
_GROUP_COST, _VALUE_COST = 160, 16
_INT_COST = _VALUE_COST + 8
_SMALL = 1 << 62
_KEPT_MAX = 3  # quarters of the limit that may stay in memory after combining: more is spilled

Partition = Callable[[Any, int], int]
_Item = tuple[bytes, list[Any]]


class BadPartition(ValueError):
    """A job's partitioner answered something that is no partition."""

    cause = Cause.USER_EXCEPTION


@dataclass(frozen=True, slots=True)
class Finished:
    """What a map reports: sums for each partition, and the digest of the index that names them exactly."""

    partition_bytes: list[int]
    partition_records: list[int]
    index_digest: bytes


def limit_for(options: Options) -> int:
    """The spill limit of a job in bytes: from its own options only, never from the machine."""
    if options.sort_buffer_bytes:
        return max(options.sort_buffer_bytes, _LIMIT_MIN)
    if options.memory_bytes:
        return min(max(options.memory_bytes // 8, _LIMIT_MIN), LIMIT_BYTES)
    return LIMIT_BYTES


class MapBuffer:
    """Collects the pairs of one map attempt. `extend` as often as there are records, then `finish` once.

    `partition` is the job's own partitioner, called with the decoded key; None is the stable hash. Exceptions of
    user code pass through.
    """

    def __init__(
        self,
        scratch: Path,
        reduces: int,
        *,
        owner: bytes,
        partition: Partition | None = None,
        combine: Combine | None = None,
        sort_values: bool = False,
        allow_pickle: bool = False,
        limit_bytes: int = 0,
    ) -> None:
        self.records_in = 0
        self.records_out = 0
        self.spilled_bytes = 0
        self._spills: list[SegmentWriter] = []
        self._spills_made = 0
        self._scratch = scratch
        self._reduces = reduces
        self._owner = owner
        self._partition = partition
        self._values = Values(allow_pickle=allow_pickle)
        self._combining = Combining(combine, self._values) if combine else None
        self._sort_values = sort_values
        self._limit = limit_bytes or LIMIT_BYTES
        self._clear()

    def _clear(self) -> None:
        # A str key stands for itself: hashing and comparing it is cheaper than encoding it for every record,
        # and only a str equals a str. Every other key is its encoding, for 1 == 1.0 == True.
        self._groups: dict[Any, list[Any]] = {}
        self._room = self._limit
        self._plain = True
        self._large = False

    @property
    def spills(self) -> int:
        """How often the buffer went to disk."""
        return self._spills_made

    @property
    def combine_in(self) -> int:
        """Values given to the combiner so far."""
        return self._combining.ins if self._combining else 0

    @property
    def combine_out(self) -> int:
        """Values that it gave back."""
        return self._combining.outs if self._combining else 0

    def extend(self, pairs: Iterable[Any]) -> None:
        """Take all pairs of an iterable. Raises NotAPair, Unencodable, OSError, and what user code raises."""
        # The loop that every emitted pair goes through: each line of it is worth some percent of a job.
        groups, room, taken, freeze, small = self._groups, self._room, 0, self._values.freeze, _SMALL
        get = groups.get
        try:
            for pair in pairs:
                if type(pair) is not tuple:
                    raise NotAPair(f"yield (key, value) pairs, not {pair!r:.100}")
                try:
                    key, value = pair
                except ValueError:
                    raise NotAPair(f"yield (key, value) pairs, not {pair!r:.100}") from None
                if type(key) is not str:
                    key = encode_key(key)
                if type(value) is int and -small < value < small:
                    room -= _INT_COST
                else:
                    value, size, plain = freeze(value)
                    room -= size + _VALUE_COST
                    if not plain:
                        self._plain = False
                    if size > RAW_TARGET:
                        self._large = True
                held = get(key)
                if held is None:
                    groups[key] = [value]
                    room -= _GROUP_COST + len(key)
                else:
                    held.append(value)
                taken += 1
                if room < 0:
                    self._make_room()
                    groups, room = self._groups, self._room
                    get = groups.get
        finally:
            self._room = room
            self.records_in += taken

    def _freeze(self, value: Any) -> tuple[Any, int]:
        value, size, plain = self._values.freeze(value)
        if not plain:
            self._plain = False
        if size > RAW_TARGET:
            self._large = True
        return value, size + _VALUE_COST

    def _make_room(self) -> None:
        if self._combining:
            self._fold(self._combining)
            if self._room >= self._limit * (4 - _KEPT_MAX) // 4:
                return
        self._spill()

    def _fold(self, combining: Combining) -> None:
        """Combine every group in memory; a single value passes as it is, and counts as given and given back."""
        groups = self._groups
        self._clear()
        kept, room = self._groups, self._limit
        for key, values in groups.items():
            if len(values) == 1:
                combining.ins += 1
                combining.outs += 1
                made = values
            else:
                made = combining.fold(key if type(key) is str else decode_key(key), values)
                if not made:
                    continue
            room -= _GROUP_COST + len(key)
            for at, value in enumerate(made):
                if type(value) is int and -_SMALL < value < _SMALL:
                    room -= _INT_COST
                else:
                    made[at], cost = self._freeze(value)
                    room -= cost
            kept[key] = made
        self._room = room

    def _spill(self) -> None:
        path = self._scratch / f"spill-{self._spills_made:05d}.run"
        self._spills_made += 1
        with SegmentWriter(path, b"spill", self._values) as segment:
            self._write_groups(segment)
        assert segment.index is not None
        self.spilled_bytes += segment.index.size
        self._spills.append(segment)
        self._clear()

    def _write_groups(self, segment: SegmentWriter) -> None:
        for items in self._partitioned():
            region = segment.begin()
            rows = self._sorted_by_value(items) if self._sort_values else items
            if self._large:
                for key, values in rows:
                    region.add(key, values, self._plain, self._size_of(values))
            else:
                region.add_all([row[0] for row in rows], [row[1] for row in rows], self._plain)
            segment.end()

    def _partitioned(self) -> list[list[_Item]]:
        """All groups in memory by partition, ascending by encoded key."""
        items: list[_Item] = [
            (STR_TAG + key.encode("utf-8", "surrogatepass") if type(key) is str else key, values)
            for key, values in self._groups.items()
        ]
        items.sort(key=_encoded)
        if self._reduces == 1 and self._partition is None:
            return [items]
        parts: list[list[_Item]] = [[] for _ in range(self._reduces)]
        if self._partition is None:
            for item in items:
                parts[hash_partition(item[0], self._reduces)].append(item)
        else:
            for item in items:
                parts[self._asked(self._partition, item[0])].append(item)
        return parts

    def _asked(self, partition: Partition, encoded: bytes) -> int:
        answer = partition(decode_key(encoded), self._reduces)
        if type(answer) is not int or not 0 <= answer < self._reduces:
            raise BadPartition(
                f"the partitioner answered {answer!r:.100}: no partition of 0..{self._reduces - 1}"
            )
        return answer

    def _sorted_by_value(self, items: list[_Item]) -> list[_Item]:
        rows = [
            (encode_sort_key(name, value), [value])
            for encoded, values in items
            for name in (decode_key(encoded),)
            for value in values
        ]
        rows.sort(key=_encoded)
        return rows

    def _size_of(self, values: Sequence[Any]) -> int:
        return sum(self._values.freeze(value)[1] for value in values)

    def finish(self, path: Path) -> Finished:
        """Write the segment to `path` and its index beside it, and drop the spills. Raises as `extend`."""
        if self._combining:
            self._fold(self._combining)
        if self._spills and self._groups:
            self._spill()
        with SegmentWriter(path, self._owner, self._values) as segment:
            if self._spills:
                self._merge_into(segment, narrow(self._spills, self._join))
            else:
                self._write_groups(segment)
        self.discard()
        index = segment.index
        assert index is not None
        self.records_out = sum(index.records)
        return Finished(list(index.lengths), list(index.records), index_digest(path))

    def discard(self) -> None:
        """Drop all that is in memory and in spills."""
        for spill in self._spills:
            _remove(spill)
        self._spills = []
        self._clear()

    def _join(self, spills: Sequence[SegmentWriter]) -> SegmentWriter:
        path = self._scratch / f"spill-{self._spills_made:05d}.run"
        self._spills_made += 1
        with SegmentWriter(path, b"spill", self._values) as segment:
            self._merge_into(segment, spills)
        for spill in spills:
            _remove(spill)
        self._spills.append(segment)
        return segment

    def _merge_into(self, segment: SegmentWriter, spills: Sequence[SegmentWriter]) -> None:
        for partition in range(self._reduces):
            region: RegionWriter = segment.begin()
            merge = Merge([Cursor(spill.reader(partition)) for spill in spills])
            rewrite(merge, region, self._combining, sort_values=self._sort_values)
            segment.end()


def _encoded(item: _Item) -> bytes:
    return item[0]


def _remove(spill: SegmentWriter) -> None:
    spill.path.unlink(missing_ok=True)
    index_path(spill.path).unlink(missing_ok=True)
