"""Cuts a listing of input files into the splits of map tasks. Pure: the same listing gives the same plan.

Nothing here reads a file, and nothing depends on the size of the cluster: a plan is a function of paths,
sizes and the split size alone, so that a job makes the same bytes on one worker and on a hundred (D11,
S3-12).

Files are taken in the order of the listing. A file that may be cut and is larger than a split becomes equal
byte ranges; a range owns the records that *begin* in it (mr/lines.py). Everything else is packed whole, in
order, until a split is full. An empty listing still makes one empty split: the job runs and has empty parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mr.rpc.job_pb2 import Piece, SplitPlan

SPLIT_BYTES = 64 << 20
# A file this much larger than a split is not cut: a second task for a small rest costs more than it saves.
_SLACK = 1.1
_PIECES_MAX = 10_000  # in one split: bounds the message that carries it
CODECS = {".gz": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst"}


class FileInfo(NamedTuple):
    """One input file as listed. A change of size or modification time during the job is INPUT_CHANGED (D8)."""

    path: str
    size: int  # bytes
    mtime_ns: int


def codec_of(path: str) -> str:
    """How a file is compressed, by its name: "", "gz", "bz2", "xz" or "zst"."""
    return next((codec for suffix, codec in CODECS.items() if path.endswith(suffix)), "")


def plan(files: Iterable[FileInfo], split_bytes: int = 0, *, splittable: bool = True) -> SplitPlan:
    """Plan the splits of `files`, of about `split_bytes` each (0 = 64 MiB).

    `splittable`: whether the input format allows to begin in the middle of a file. Compressed files never do.
    """
    from mr.rpc.job_pb2 import Split, SplitPlan

    result = SplitPlan()
    pending, pending_bytes = Split(), 0

    def close() -> None:
        nonlocal pending, pending_bytes
        if pending.pieces:
            pending.bytes = pending_bytes
            result.splits.append(pending)
        pending, pending_bytes = Split(), 0

    split_bytes = split_bytes or SPLIT_BYTES
    for file in files:
        if not file.size:
            continue  # no record begins in it
        for piece in _pieces(file, split_bytes, splittable):
            size = piece.end - piece.start
            if pending_bytes + size > split_bytes or len(pending.pieces) >= _PIECES_MAX:
                close()
            pending.pieces.append(piece)
            pending_bytes += size
    close()
    if not result.splits:
        result.splits.append(Split())
    return result


def _pieces(file: FileInfo, split_bytes: int, splittable: bool) -> Iterator[Piece]:
    from mr.rpc.job_pb2 import Piece

    codec = codec_of(file.path)
    count = 1
    if splittable and not codec and file.size > split_bytes * _SLACK:
        count = -(-file.size // split_bytes)
    for i in range(count):
        yield Piece(
            path=file.path,
            start=file.size * i // count,
            end=file.size * (i + 1) // count,
            size=file.size,
            mtime_ns=file.mtime_ns,
            codec=codec,
        )
