"""Which jobs a run submits, when, and what they read: a pure function of a seed.

The shapes differ in what they make vulnerable: a long job lives through many faults, many tiny ones meet every
moment of a job's life, a sort moves every byte, a skewed one has one heavy reduce, a flaky one fails by itself, a
poisoned one must fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from jepsen_like import hostile

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "naïve",
    "cats",
    "höchste",
    "wall",
]
ERRAND = "errand"  # how jobs that faults submit themselves are called: see errand.py
# shape -> weight; the long one is drawn by hand
MIX = {"wordcount": 3.0, "tiny": 3.0, "sort": 2.0, "index": 2.0, "skew": 1.0, "flaky": 1.0, "poison": 0.5}
CUT = frozenset({"wordcount", "sort", "index", "skew", "tiny", "spill"})  # whose files may be cut into splits
HOT = 0.75  # of the rows of a spilling job have one key: more values than one piece of it holds
# shape -> the causes that tell the truth of its failure, and a word of the message
FAILURES: dict[str, tuple[tuple[str, ...], str]] = {
    "poison": (("USER_EXCEPTION",), "POISON"),
    "altered": (("INPUT_CHANGED", "INPUT_MISSING"), "input"),
    "late": (("JOB_DEADLINE",), "not done within"),
}
MIX |= {"spill": 1.0, **{f"hostile-{deed}": 0.15 for deed in hostile.ENDS}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One job: submitted `at_s` after the storm's start; cancelled so long after its acceptance, or never."""

    id: str
    shape: str
    at_s: float
    seed: int  # of its input
    files: int
    lines: int  # in each file
    reduces: int
    map_s: float = 0.0  # what each file costs
    key_s: float = 0.0  # what each key costs
    cancel_after_s: float | None = None
    # cancelled in the moment of its publication instead, if that can be met (T7, FT14)
    regretted: bool = False
    again: bool = False  # submitted twice, by two clients, under one id (C10)
    packed: int = 1  # how many files of the largest size fit into one split
    cut: bool = False  # instead, files are cut in the middle; the first one exactly where a line begins

    @property
    def expected(self) -> str:
        """How it ends when nobody cancels it."""
        return self.failure[0]

    @property
    def failure(self) -> tuple[str, tuple[str, ...], str]:
        """How it ends, the causes that tell the truth of it, and a word of the message."""
        return failure_of(self.shape)

    @property
    def flags(self) -> dict[str, Any]:
        """What it is submitted with beside the usual."""
        if self.shape.startswith("hostile-"):
            return hostile.flags(self.shape.removeprefix("hostile-"))
        return {"sort_buffer": "1MiB"} if self.shape == "spill" else {}


def failure_of(shape: str) -> tuple[str, tuple[str, ...], str]:
    """See Work.failure."""
    if shape in FAILURES:
        return "FAILED", *FAILURES[shape]
    return hostile.ENDS.get(shape.removeprefix("hostile-"), ("SUCCEEDED", (), ""))


def attempts_of(shape: str) -> int:
    """How often a task is tried before its job fails by its own code: so often it met its first record."""
    if shape in {"altered", "late"}:
        return 0
    return hostile.ATTEMPTS if shape.startswith("hostile-") else 4


def plan(seed: int, duration_s: float, *, every_s: float = 2.5, shapes: Sequence[str] = ()) -> list[Work]:
    """The jobs of a run: a long one at once, then one every `every_s` seconds on average. Of hostile deeds, each comes
    before any comes again, as far as chance is concerned."""
    rng = Random(f"workload {seed}")
    mix = {shape: weight for shape, weight in MIX.items() if not shapes or shape in shapes}
    works = []
    if not shapes or "long" in shapes:
        works.append(_work(rng, 0, "long", 0.0, duration_s))
    at_s = rng.uniform(0, 1)
    while mix and at_s < duration_s:
        shape = rng.choices(list(mix), weights=list(mix.values()))[0]
        if shape.startswith("hostile-"):
            mix[shape] /= 8
        works.append(_work(rng, len(works), shape, round(at_s, 3), duration_s))
        at_s += rng.uniform(0.3, 1.7) * every_s
    return works


def _work(rng: Random, number: int, shape: str, at_s: float, duration_s: float) -> Work:
    hurts = shape == "poison" or shape.startswith("hostile-")
    cancelled = shape != "long" and not hurts and rng.random() < 0.2
    small = shape in {"tiny", "flaky"} or hurts
    files = 1 if shape == "tiny" else rng.randint(2, 3) if small else rng.randint(4, 8)
    if shape == "spill":
        files = 2
    if shape == "long":
        files = max(8, min(60, int(duration_s)))
    seed = rng.getrandbits(32)
    return Work(
        id=f"{shape}-{number:03d}",  # of one width: an id must not begin another
        shape=shape,
        at_s=at_s,
        seed=seed,
        files=files,
        lines=6_000 if shape == "spill" else rng.randint(3, 10) if small else rng.randint(20, 60),
        reduces=1 if small else rng.randint(2, 4),
        map_s=1.0 if shape == "long" else rng.choice([0.0, 0.1, 0.4]),
        key_s=0.0 if shape == "spill" else rng.choice([0.0, 0.0, 0.01]),
        # some cancels meet the queued job, some the running one, some the end
        cancel_after_s=round(rng.choice([0.0, 0.3, 1.0, 2.0]) * rng.uniform(0.5, 1.5), 3)
        if cancelled
        else None,
        regretted=cancelled and seed % 2 == 0,
        again=rng.random() < 0.25,
        packed=1 if shape == "long" else rng.choice([1, 1, 1, 3]),
        cut=shape in CUT and seed % 4 == 1,
    )


def split_size(work: Work, files: Sequence[Path]) -> int:
    """Bytes of a split, with which the work is submitted."""
    if not work.cut:
        return work.packed * max(path.stat().st_size for path in files)
    text = files[0].read_bytes()
    return text.rfind(b"\n", 0, len(text) // 2) + 1 or len(text)


def write_inputs(work: Work, folder: Path) -> list[Path]:
    """The job's input files, in the order in which the cluster lists them."""
    rng = Random(work.seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(work.files):
        path = folder / f"{number:04d}.txt"
        rows = [f"#file {number}", *(_row(work.shape, rng, number, row) for row in range(work.lines))]
        if work.shape in {"poison", "flaky"} and number == work.files - 1:
            rows.append(work.shape.upper())
        if work.shape.startswith("hostile-") and number == work.files - 1:
            rows.append(f"HOSTILE {work.shape.removeprefix('hostile-')}")
        path.write_text("\n".join(rows) + rng.choice(["\n", ""]))
        paths.append(path)
    return paths


def _row(shape: str, rng: Random, number: int, row: int) -> str:
    words = rng.choices(WORDS, k=rng.randint(1, 12))
    match shape:
        case "spill" if rng.random() < HOT:
            return f"hot\t{' '.join(words)}"
        case "sort" | "spill":
            return f"{rng.randrange(1 << 20):06x}\t{' '.join(words)}"
        case "skew":
            return f"{'hot' if rng.random() < 0.9 else rng.choice(WORDS)}\t{number}.{row}"
        case "index":
            return f"doc-{rng.randrange(50)} {' '.join(words)}"
    return " ".join(words)
