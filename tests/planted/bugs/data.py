"""Bugs of the data plane: records, partitions, checksums, publication."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from tests.planted.bug import QUIET, Bug, work


def combiner_drops_a_value() -> None:
    """The combiner sees all values of a key but the last, when there are more than three."""
    from mr.shuffle import buffer

    fold = buffer.Combining.fold

    def careless(self: Any, key: Any, values: Any) -> Any:
        return fold(self, key, values[:-1] if len(values) > 3 else values)

    buffer.Combining.fold = careless  # type: ignore[method-assign]


def wrong_partition_in_a_rerun() -> None:
    """Another attempt than the first sends its keys elsewhere."""
    from mr.shuffle import buffer

    partition = buffer.hash_partition

    def shifted(encoded: bytes, reduces: int) -> int:
        shift = int(os.environ.get("MR_ATTEMPT", "1")) > 1
        return (partition(encoded, reduces) + shift) % reduces

    buffer.hash_partition = shifted


def checksum_not_verified() -> None:
    """A byte of a block changes on its way, and nobody looks at the checksum."""
    from mr.shuffle import blocks

    def take(self: Any) -> Any:
        head = self._read(self._at, blocks.HEADER_BYTES)
        header = blocks.parse_header(head, 0, self._length - self._at)
        payload = self._read(self._at + blocks.HEADER_BYTES, header.stored)
        self._at += blocks.HEADER_BYTES + header.stored
        return header, payload.replace(b"jumps", b"jumpz")

    blocks.RegionReader._take = take  # type: ignore[method-assign]


def marker_before_last_part() -> None:
    """Publication writes the marker, then moves the parts."""
    from mr import output

    def publish(spec: Any, files: Any, counters: Any) -> bytes:
        import hashlib

        manifest = output.manifest_of(spec, files, counters)
        out, staging = Path(spec.output.path), Path(spec.staging)
        out.mkdir(exist_ok=True)
        (out / output.MANIFEST).write_bytes(manifest)
        for file in files:
            time.sleep(0.1)
            source = staging / "attempts" / file.name
            if file.name and source.exists():
                source.rename(out / file.part)
        output.cleanup(spec)
        return hashlib.sha256(manifest).digest()

    _replace_everywhere(output.publish, publish)


def staging_leaks() -> None:
    """The staging place of a job stays."""
    from mr import output

    output._remove_tree = lambda path: None


def orphan_in_the_output() -> None:
    """A temporary file is published with the parts."""
    from mr import output

    gather = output._gather

    def careless(staging: Path, files: Any, manifest: bytes) -> Path:
        final = gather(staging, files, manifest)
        (final / "part-r-00000.tmp").write_bytes(b"")
        return final

    output._gather = careless


def any_manifest_will_do() -> None:
    """A place that has a marker counts as published, whoever's it is."""
    from mr import output

    output._is_published = lambda out, _manifest: (out / output.MANIFEST).exists()


def manifest_is_wrong() -> None:
    """The manifest's lengths are those before the last flush."""
    from mr import output

    close = output.PartWriter.close

    def early(self: Any) -> Any:
        answer = close(self)
        answer.records += 1
        return answer

    output.PartWriter.close = early  # type: ignore[method-assign]


def last_line_lost() -> None:
    """A file's last line is not read when it has no newline."""
    from mr import attempt_map

    run = attempt_map._Loop.run

    def short(self: Any, batches: Any) -> None:
        def cut() -> Any:
            for batch in batches:
                if len(batch.values) > 1:
                    batch.values.pop()
                yield batch

        run(self, cut())

    attempt_map._Loop.run = short  # type: ignore[method-assign]


def errors_swallowed() -> None:
    """An exception of the mapper is taken for the end of its input."""
    from mr import attempt_map

    run = attempt_map._Loop.run

    def quiet(self: Any, batches: Any) -> None:
        try:
            run(self, batches)
        except ValueError:
            return

    attempt_map._Loop.run = quiet  # type: ignore[method-assign]


def _replace_everywhere(old: Any, new: Any) -> None:
    """Also in modules that have imported the function by name."""
    import sys

    import mr.attempt  # noqa: F401  so that it is loaded

    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("mr"):
            for name, value in list(vars(module).items()):
                if value is old:
                    setattr(module, name, new)


FLAKY = (work("flaky", 0, files=3, lines=20, reduces=3), work("wordcount", 1))

BUGS = [
    Bug(
        name="combiner-drops-a-value", breaks="D1, D6", plant=combiner_drops_a_value, run=QUIET, in_tasks=True
    ),
    Bug(
        name="wrong-partition-in-a-rerun",
        breaks="D1, D11",
        plant=wrong_partition_in_a_rerun,
        run={**QUIET, "works": FLAKY},
        in_tasks=True,
    ),
    Bug(name="checksum-not-verified", breaks="D7, D1", plant=checksum_not_verified, run=QUIET, in_tasks=True),
    Bug(name="marker-before-last-part", breaks="D4", plant=marker_before_last_part, run=QUIET, in_tasks=True),
    Bug(
        name="staging-leaks",
        breaks="D2",
        plant=staging_leaks,
        run={**QUIET, "works": (work("wordcount", 0), work("wordcount", 1, map_s=1.5, cancel_after_s=0.5))},
        in_tasks=True,
    ),
    Bug(name="orphan-in-the-output", breaks="D2", plant=orphan_in_the_output, run=QUIET, in_tasks=True),
    Bug(
        name="any-manifest-will-do",
        breaks="D1, D4",
        plant=any_manifest_will_do,
        # jobs that overwrite others' outputs; some of them are cancelled
        run={**QUIET, "seconds": 20.0, "scenes": "overwritten"},
        in_tasks=True,
    ),
    Bug(name="manifest-is-wrong", breaks="D3, T11", plant=manifest_is_wrong, run=QUIET, in_tasks=True),
    Bug(name="last-line-lost", breaks="D1, D6", plant=last_line_lost, run=QUIET, in_tasks=True),
    Bug(
        name="errors-swallowed",
        breaks="T6",
        plant=errors_swallowed,
        run={**QUIET, "works": (work("poison", 0, files=2, reduces=1), work("wordcount", 1))},
        in_tasks=True,
    ),
]
