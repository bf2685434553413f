"""A reduce attempt: the groups of one partition through the reducer into an output file of its own name."""

from __future__ import annotations

import hashlib
import inspect
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, starmap
from typing import Any

from mr import names, output
from mr.failures import short_repr
from mr.hints import CHECKED_RECORDS, Hints
from mr.position import Phase
from mr.rpc import job_pb2 as pb
from mr.rpc import session_pb2, task_pb2
from mr.running import Running
from mr.shuffle import merge, segment

Group = tuple[Any, Iterator[Any]]
_U32 = struct.Struct(">I")
_TICK_MASK = 0xFF


def run_reduce(running: Running) -> pb.TaskResult:
    """Runs a reduce. Raises whatever goes wrong; the caller makes a Failure of it."""
    found = running.user.bind("reducer", running.step.reducer)
    assert found is not None, "a reduce task of a step without a reducer"
    running.function, call = found
    combiner = running.user.bind("combiner", running.step.combiner)
    writer = output.part_writer(running.output_format, running.staged / running.output_name)
    running.on_discard.append(writer.abort)
    runs = running.request.runs
    loop = _Loop(running, writer, call, Hints(running.function))
    running.user.setup()
    groups = merge.groups(
        runs,
        running.scratch,
        job=running.spec.job_id,
        step=running.task.step,
        partition=running.task.index,
        sort_values=running.step.sort_values,
        allow_pickle=running.step.allow_pickle,
        combine=combiner[1] if combiner else None,
    )
    loop.run(groups)
    if (late := running.user.teardown()) is not None:
        writer.extend(late)
    running.marker.phase(Phase.FINISH)
    result = pb.TaskResult(file=writer.close(), consumed_digest=consumed_digest(runs))
    result.file.name = running.output_name
    result.file.part = names.part_name(running.task)
    result.counters["mr:reduce_groups_in"] = loop.done
    result.counters["mr:reduce_records_in"] = sum(
        segment.region_records(run.path, run.offset, run.length) for run in runs
    )
    result.counters["mr:reduce_records_out"] = result.file.records
    result.counters["mr:bytes_out"] = result.file.bytes
    return running.finish(result)


def consumed_digest(runs: Sequence[task_pb2.Run]) -> bytes:
    """SHA-256 over the attempt numbers that were merged, in map order (T9)."""
    return hashlib.sha256(b"".join(_U32.pack(run.attempt) for run in runs)).digest()


class _Loop:
    """The groups of a partition through the reducer. `done` counts keys."""

    def __init__(
        self, running: Running, writer: output.PartWriter, call: Callable[..., Any], hints: Hints
    ) -> None:
        self.done = 0
        self._running = running
        self._writer = writer
        self._call = call
        self._hints = hints
        self._skip = frozenset(running.request.skip)
        self._tolerant = running.spec.options.skip_bad > 0
        self._key: Any = None
        running.describe_record = self._in_hand
        running.progress = self._progress

    def run(self, groups: Iterator[Group]) -> None:
        """Takes every group."""
        self._running.marker.phase(Phase.REDUCE)
        noted = self._noted(groups)
        careful = None if self._tolerant or self._skip else CHECKED_RECORDS
        for key, values in islice(noted, careful):
            self._one(key, values)
        if inspect.isgeneratorfunction(self._call):  # it always gives an iterator: no Python of ours between
            self._writer.extend(chain.from_iterable(starmap(self._call, noted)))
        else:
            call, extend = self._call, self._writer.extend
            for key, values in noted:
                if (pairs := call(key, values)) is not None:
                    extend(pairs)
        self._running.marker.slots[0] = 0

    def _noted(self, groups: Iterator[Group]) -> Iterator[Group]:
        """The groups, each noted as the one in hand; reports progress on the way."""
        slots, tick = self._running.marker.slots, self._running.tick
        number = 0
        for group in groups:
            self._key = group[0]
            number += 1
            slots[0] = number
            yield group
            if not number & _TICK_MASK:
                self.done = number
                tick()
        self.done = number

    def _one(self, key: Any, values: Iterator[Any]) -> None:
        number = self._running.marker.slots[0]
        if number in self._skip:
            self._running.skip("the task process died on this key")
            return
        try:
            if number <= CHECKED_RECORDS:
                self._hints.check_inputs(key)
            pairs = self._call(key, values)
            if pairs is not None and number <= CHECKED_RECORDS:
                pairs = self._hints.checked(pairs)
            if self._tolerant and pairs is not None:
                pairs = list(pairs)
        except merge.CorruptData:
            raise
        except Exception as error:
            if not self._tolerant:
                raise
            self._running.skip(error)
            return
        if pairs is not None:
            self._writer.extend(pairs)

    def _in_hand(self) -> tuple[str, str]:
        number = self._running.marker.slots[0]
        if not number:
            return "", ""
        key = short_repr(self._key)
        return f"partition {self._running.task.index} key {key} (group {number})", key

    def _progress(self) -> session_pb2.Progress:
        return session_pb2.Progress(records=self.done, bytes=self._writer.bytes, phase="reduce")
