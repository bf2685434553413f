"""A map attempt: the records of one split through the mapper into a segment, or into an output file if map-only.

The first records are checked against the mapper's hints and for being pairs; then a loop without checks runs
until something is wrong. A record that fails, and that the job may skip, leaves nothing behind: with `skip_bad`
a record's pairs are taken only when the mapper is through with it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from itertools import chain, compress, count, islice, repeat
from operator import not_
from pathlib import Path
from typing import Any

from mr import names, output
from mr.errors import Cause, TaskFailure
from mr.formats import Batch
from mr.hints import CHECKED_RECORDS, Hints
from mr.locate import batches, place
from mr.position import Phase
from mr.registry import IDENTITY, describe
from mr.rpc import job_pb2 as pb
from mr.rpc import session_pb2
from mr.running import Running, Sink
from mr.shuffle.buffer import MapBuffer, limit_for
from mr.shuffle.segment import index_path, owner
from mr.usercode import identity_map


def run_map(running: Running) -> pb.TaskResult:
    """Runs a map. Raises whatever goes wrong; the caller makes a Failure of it."""
    found = running.user.bind("mapper", running.step.mapper)
    function, call = found or (describe("mapper", IDENTITY, identity_map), identity_map)
    running.function = function
    to_file = not running.step.reducer
    sink: MapBuffer | output.PartWriter = _part_writer(running) if to_file else _buffer(running)
    loop = _Loop(running, sink, call, function.takes, Hints(function))
    running.user.setup()
    loop.run(batches(running.request))
    if (late := running.user.teardown()) is not None:
        sink.extend(late)
    running.marker.phase(Phase.FINISH)
    result = pb.TaskResult()
    result.counters["mr:map_records_in"] = loop.done
    result.counters["mr:bytes_in"] = loop.bytes
    if isinstance(sink, MapBuffer):
        _store(running, sink, result)
    else:
        result.file.CopyFrom(sink.close())
        result.file.name = running.output_name
        result.file.part = names.part_name(running.task)
        result.counters["mr:map_records_out"] = result.file.records
        result.counters["mr:bytes_out"] = result.file.bytes
    return running.finish(result)


def _buffer(running: Running) -> MapBuffer:
    step, task = running.step, running.task
    combiner = running.user.bind("combiner", step.combiner)
    by = running.user.bind("partitioner", step.partitioner if step.partitioner != "hash" else "")
    buffer = MapBuffer(
        running.scratch,
        step.reduces,
        owner=owner(running.spec.job_id, task.step, task.index, running.request.attempt.number),
        partition=by[1] if by else None,
        combine=combiner[1] if combiner else None,
        sort_values=step.sort_values,
        allow_pickle=step.allow_pickle,
        limit_bytes=limit_for(running.spec.options),
    )
    running.on_discard.append(buffer.discard)
    return buffer


def _part_writer(running: Running) -> output.PartWriter:
    writer = output.part_writer(running.output_format, running.staged / running.output_name)
    running.on_discard.append(writer.abort)
    return writer


def _store(running: Running, buffer: MapBuffer, result: pb.TaskResult) -> None:
    """Writes the segment aside and renames it to where it is served from; the index comes last."""
    aside = running.scratch / names.segment_name(running.request.attempt)
    done = buffer.finish(aside)
    final = Path(running.request.job_dir) / aside.name
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(aside, final)
    os.replace(index_path(aside), index_path(final))
    result.partition_bytes.extend(done.partition_bytes)
    result.partition_records.extend(done.partition_records)
    result.index_digest = done.index_digest
    result.counters["mr:map_records_out"] = buffer.records_in
    result.counters["mr:combine_records_in"] = buffer.combine_in
    result.counters["mr:combine_records_out"] = buffer.combine_out
    result.counters["mr:spilled_bytes"] = buffer.spilled_bytes


class _Loop:
    """The records of an attempt through the mapper. `done` counts those of finished batches."""

    def __init__(
        self, running: Running, sink: Sink, call: Callable[..., Any], takes: int, hints: Hints
    ) -> None:
        self.done = 0
        self.bytes = 0
        self._running = running
        self._extend = sink.extend
        self._call = call
        self._takes_key = takes == 2
        self._generates = inspect.isgeneratorfunction(call)
        self._hints = hints
        self._skip = frozenset(running.request.skip)
        self._tolerant = running.spec.options.skip_bad > 0
        self._batch: Batch | None = None
        self._total = max(1, running.request.split.bytes or running.request.source_file.bytes)
        running.describe_record = self._in_hand
        running.progress = self._progress

    def run(self, batches: Iterator[Batch]) -> None:
        """Takes every batch."""
        running = self._running
        running.marker.phase(Phase.MAP)
        for batch in batches:
            self._batch = batch
            if batch.path != running.context.input_file:
                running.context.input_file = os.environ["MR_INPUT_FILE"] = batch.path
            size = len(batch.values)
            careful = max(0, min(size, CHECKED_RECORDS - self.done))
            if self._tolerant or self._skip or batch.bad:
                careful = size
            for at in range(careful):
                self._one(batch, at)
            if careful < size:
                self._many(batch, careful)
            self.done += size
            self.bytes += batch.bytes
            running.marker.slots[0] = 0
            running.tick()
        self._batch = None

    def _many(self, batch: Batch, start: int) -> None:
        """The loop that matters: no checks, one store for the position, one call in, one call out."""
        slots, call, extend = self._running.marker.slots, self._call, self._extend
        number = self.done + start
        columns = (batch.keys(), batch.values) if self._takes_key else (batch.values,)
        rests: list[Iterator[Any]] = [islice(column, start, None) for column in columns]
        if self._generates:
            # The same in C, for functions that always give an iterator: mark, call, take all, next record.
            marks = map(not_, map(slots.__setitem__, repeat(0), count(number + 1)))
            rests[0] = compress(rests[0], marks)
            extend(chain.from_iterable(map(call, *rests)))
            return
        for given in zip(*rests, strict=True):
            number += 1
            slots[0] = number
            if (pairs := call(*given)) is not None:
                extend(pairs)

    def _one(self, batch: Batch, at: int) -> None:
        """One record with every check, and skipped if it is bad and the job allows it."""
        number = self.done + at + 1
        self._running.marker.slots[0] = number
        if number in self._skip:
            self._running.skip("the task process died on this record")
            return
        try:
            if at in batch.bad:
                raise TaskFailure(Cause.BAD_RECORD_FORMAT, batch.bad[at])
            given = (batch.keys()[at], batch.values[at]) if self._takes_key else (batch.values[at],)
            if number <= CHECKED_RECORDS:
                self._hints.check_inputs(*given)
            pairs = self._call(*given)
            if pairs is not None and number <= CHECKED_RECORDS:
                pairs = self._hints.checked(pairs)
            if self._tolerant and pairs is not None:
                pairs = list(pairs)
        except Exception as error:
            if not self._tolerant:
                raise
            self._running.skip(error)
            return
        if pairs is not None:
            self._extend(pairs)

    def _in_hand(self) -> tuple[str, str]:
        """("/data/07.txt byte 88213 (record 1203)", repr of the record)."""
        number, batch = self._running.marker.slots[0], self._batch
        at = number - self.done - 1
        if not number or batch is None or not 0 <= at < len(batch.values):
            return "", ""
        return place(batch, at, number)

    def _progress(self) -> session_pb2.Progress:
        records = self._running.marker.slots[0] or self.done
        fraction = min(1.0, self.bytes / self._total)
        return session_pb2.Progress(records=records, bytes=self.bytes, fraction=fraction, phase="read")
