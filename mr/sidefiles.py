"""Side files and side outputs of one attempt: written under names of its own, published only if it wins (P-06)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO

from mr import names, output
from mr.context import Emitter
from mr.rpc import job_pb2 as pb


class SideFiles:
    """Opens side files in `folder`, the attempts' part of the staging place, and closes them for the report."""

    def __init__(self, folder: Path, attempt: pb.AttemptId, chosen: pb.Output) -> None:
        self._folder = folder
        self._attempt = attempt
        self._chosen = chosen
        self._files: dict[str, tuple[str, IO[bytes]]] = {}
        self._writers: dict[str, tuple[str, output.PartWriter]] = {}

    def open(self, name: str) -> IO[bytes]:
        """A binary file to be published as side/<task>/<name>."""
        stored = f"{names.attempt_name(self._attempt)}.side.{name}"
        file = (self._folder / stored).open("wb")
        self._files[stored] = (names.side_name(self._attempt.task, name), file)
        return file

    def emit(self, name: str) -> Emitter:
        """A writer of records to be published as <name>-r-00003, in the job's output format."""
        stored = f"{names.attempt_name(self._attempt)}.emit.{name}"
        writer = output.part_writer(self._chosen, self._folder / stored)
        self._writers[stored] = (names.emit_name(self._attempt.task, name), writer)
        return writer

    def close(self) -> list[pb.OutputFile]:
        """All of them, durable and with their checksums."""
        done = []
        for stored, (part, file) in sorted(self._files.items()):
            if not file.closed:
                file.flush()
                os.fsync(file.fileno())
                file.close()
            path = self._folder / stored
            with path.open("rb") as again:
                digest = hashlib.file_digest(again, "sha256").digest()
            done.append(pb.OutputFile(name=stored, part=part, bytes=path.stat().st_size, sha256=digest))
        for stored, (part, writer) in sorted(self._writers.items()):
            closed = writer.close()
            closed.name, closed.part = stored, part
            done.append(closed)
        return done

    def discard(self) -> None:
        """Removes what an attempt that failed has written."""
        for stored, (_, file) in self._files.items():
            file.close()
            (self._folder / stored).unlink(missing_ok=True)
        for _, writer in self._writers.values():
            writer.abort()
