"""How fast one core moves records: `python -m tests.bench.dataplane [N]`. Prints, asserts nothing."""

from __future__ import annotations

import random
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mr.formats import input_format, output_format
from mr.rpc.job_pb2 import Output, Piece, Split
from mr.rpc.task_pb2 import Run
from mr.shuffle import segment
from mr.shuffle.buffer import MapBuffer
from mr.shuffle.merge import groups


def _timed(what: str, count: int, action: Callable[[], Any]) -> Any:
    begin = time.process_time()  # of this process: other load on the machine matters less
    result = action()
    seconds = time.process_time() - begin
    print(f"{what:58} {count / seconds / 1e6:7.2f} M records/s   {seconds:6.2f} s of CPU")
    return result


def _words(count: int, distinct: int, seed: int) -> list[tuple[str, int]]:
    rng = random.Random(seed)
    vocabulary = [f"{rng.randrange(16**6):x}"[: rng.randint(2, 9)] for _ in range(distinct)]
    return [
        (word, 1) for word in rng.choices(vocabulary, weights=[1 / (i + 1) for i in range(distinct)], k=count)
    ]


def _add(key: str, values: Iterator[int]) -> Iterator[tuple[str, int]]:
    yield key, sum(values)


def _map(folder: Path, number: int, pairs: list[tuple[Any, Any]], **options: Any) -> tuple[Run, MapBuffer]:
    buffer = MapBuffer(folder, 1, owner=segment.owner("bench", 0, number, 1), **options)
    buffer.extend(pairs)
    path = folder / f"0.m-{number:05d}.a1.seg"
    buffer.finish(path)
    index = segment.open_index(path)
    return Run(
        map=number, attempt=1, path=str(path), offset=index.offsets[0], length=index.lengths[0]
    ), buffer


def _reduce(folder: Path, runs: list[Run]) -> int:
    return sum(1 for _, values in groups(runs, folder, job="bench", step=0, partition=0) for _ in values)


def main(count: int) -> None:
    """Run every part once with about `count` records."""
    words = _words(count, 50_000, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _timed("map, words, combined", count, lambda: _map(folder, 0, words, combine=_add))
        _timed("map, words, not combined", count, lambda: _map(folder, 0, words))
        small: dict[str, Any] = {"combine": _add, "limit_bytes": 2 << 20}
        _timed("map, words, 2 MiB buffer, combined", count, lambda: _map(folder, 0, words, **small))
        pairs = [(word, (i, i)) for i, (word, _) in enumerate(words)]
        _timed("map, words to flat tuples", count, lambda: _map(folder, 0, pairs))
        distinct = [(i * 2654435761 % (1 << 32), 1) for i in range(count)]
        _timed("map, distinct ints", count, lambda: _map(folder, 0, distinct))

        for label, source in (("words", words), ("distinct ints", distinct)):
            for width in (8, 40):
                share = count // width
                runs = [_map(folder, i, source[i * share : (i + 1) * share])[0] for i in range(width)]
                _timed(
                    f"merge of {width} runs, {label}", share * width, lambda runs=runs: _reduce(folder, runs)
                )
        tracemalloc.start()
        _reduce(folder, runs)
        print(f"peak of that merge: {tracemalloc.get_traced_memory()[1] / 2**20:.1f} MiB")
        tracemalloc.stop()

        text = folder / "text"
        lines = count // 8
        text.write_text("".join(f"{i} the quick brown fox jumps over the lazy dog\n" for i in range(lines)))
        size = text.stat().st_size
        split = Split(pieces=[Piece(path=str(text), end=size, size=size)])
        read = input_format("text").read
        _timed("lines of text", lines, lambda: sum(len(batch.values) for batch in read(split)))
        with open(folder / "out", "wb") as file:
            sink = output_format("tsv", Output().options).sink(file)
            _timed("tsv", count, lambda: (sink.extend(words), sink.close()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000)
