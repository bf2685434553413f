"""The paper's ratio of maps, reduces and workers, a thousandth of it: 200, 5, 2 (S1-13)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mr.cluster import Cluster
from tests.reference import reference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WORDCOUNT = Path(__file__).resolve().parents[2] / "examples" / "wordcount.py"
MAPS, REDUCES = 200, 5


def words(line: str) -> Iterator[tuple[str, int]]:
    return ((word.lower(), 1) for word in line.split())


def total(word: str, counts: Iterator[int]) -> Iterator[tuple[str, int]]:
    yield word, sum(counts)


def test_two_hundred_maps_five_reduces_two_workers(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for n in range(MAPS):
        (corpus / f"{n:03d}.txt").write_text(f"word{n} the word{n % 7} of file {n}\n" * 12)
    size = max(file.stat().st_size for file in corpus.iterdir())
    out = tmp_path / "out"
    with Cluster.spawn(masters=3, workers=2, slots=1, home=tmp_path / "cluster") as cluster:
        argv = [sys.executable, "-m", "mr.cli", "submit", str(WORDCOUNT), str(corpus), "-o", str(out)]
        argv += ["--reduces", str(REDUCES), "--split-size", str(size), "--id", "ratio"]
        subprocess.run(argv, env=cluster.env(), check=True, capture_output=True, timeout=240)
        with cluster.connect() as client:
            status = client.attach("ratio").status()
    assert status.steps[0].map.total == MAPS
    assert status.steps[0].reduce.total == REDUCES
    assert not status.reruns
    expected = reference(words, total, sorted(corpus.iterdir()), REDUCES)
    assert [part.read_bytes() for part in sorted(out.glob("part-r-*"))] == expected
