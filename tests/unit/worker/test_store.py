"""Names are a pure function, two attempts never share one, and nothing of the dead stays (S1-05, D9, FD22)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mr import names
from mr.rpc import job_pb2 as job
from worker.events import Attempt, safe_name
from worker.store import LOGS_BYTES, Layout, Store, WorkDirInUse, drop_published

MAP = Attempt("wc", 0, job.MAP, 7, 1)
OTHER = Attempt("other", 0, job.MAP, 7, 1)

attempts = st.builds(
    Attempt,
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True),
    st.integers(0, 40),
    st.sampled_from([job.MAP, job.REDUCE, job.COMMIT, job.CLEANUP]),
    st.integers(0, 250_000),
    st.integers(1, 200),
)


@given(attempts, attempts)
def test_two_attempts_never_share_a_path(a: Attempt, b: Attempt) -> None:
    layout = Layout(Path("/work"))
    ours = {layout.segment(a), layout.attempt(a), layout.log(a)}
    theirs = {layout.segment(b), layout.attempt(b), layout.log(b)}
    assert ours == theirs if a == b else not ours & theirs


@given(attempts)
def test_a_name_says_whose_it_is(a: Attempt) -> None:
    layout = Layout(Path("/work"))
    assert Attempt.of(names.parse_attempt(layout.attempt(a).name, a.job)) == a
    assert layout.segment(a).is_relative_to(layout.job(a.job))
    assert Attempt.of(a.wire()) == a


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "-rf", "a\0b", "x" * 200, "ä"])
def test_a_name_from_the_network_cannot_leave_the_work_dir(name: str) -> None:
    assert not safe_name(name)
    with pytest.raises(ValueError, match="not an attempt"):
        Attempt.of(Attempt(name, 0, job.MAP, 0, 1).wire())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "w")


def output(store: Store, attempt: Attempt) -> Path:
    """A finished map with scratch left over."""
    scratch = store.make_attempt_dir(attempt)
    (scratch / "spill").write_bytes(b"x")
    segment = store.layout.segment(attempt)
    segment.write_bytes(b"data")
    segment.with_suffix(".idx").write_bytes(b"index")
    return segment


def test_an_attempt_leaves_its_output_and_nothing_else(store: Store) -> None:
    segment = output(store, MAP)
    store.drop_attempt(MAP)
    assert segment.exists()
    assert not store.layout.attempt(MAP).exists()
    store.drop_output(MAP)
    assert list(store.layout.maps("wc").iterdir()) == []


def test_the_sweep_leaves_only_what_live_jobs_own(store: Store) -> None:
    kept, gone = output(store, MAP), output(store, OTHER)
    for code in ("aa", "bb"):
        (store.layout.code / code).mkdir()
    store.sweep({"wc"}, {"aa"})
    store.empty_trash()
    assert kept.exists()
    assert not gone.exists()
    assert [entry.name for entry in store.layout.code.iterdir()] == ["aa"]
    assert list(store.layout.trash.iterdir()) == []


def test_a_dropped_job_leaves_no_byte(store: Store) -> None:
    output(store, MAP)
    store.drop_job("wc")
    store.drop_job("wc")
    output(store, MAP)  # the name is free at once, though the old bytes may still be there
    store.drop_job("wc")
    store.empty_trash()
    left = [p for p in store.layout.root.rglob("*") if p.is_file()]
    assert {p.name for p in left} <= {"lock", "state.json"}


def test_old_logs_go_first_when_there_are_too_many(store: Store) -> None:
    for number, job_id in enumerate(("old", "new")):
        log = store.layout.log(Attempt(job_id, 0, job.MAP, 0, 1))
        log.parent.mkdir(parents=True)
        log.touch()
        os.truncate(log, LOGS_BYTES - 1)  # sparse
        os.utime(log, (number, number))
    store.empty_trash()
    assert [path.name for path in (store.layout.root / "logs").iterdir()] == ["new"]


def test_a_life_is_greater_than_every_earlier_one(store: Store) -> None:
    """FT20, FT21: also when the clock went back."""
    lives = [store.begin_life(now_ms=now) for now in (1000, 2000, 500, 500)]
    incarnations = [life.incarnation for life in lives]
    assert incarnations == sorted(set(incarnations))
    assert len({life.worker for life in lives}) == 1, "the id is kept"


def test_the_cluster_is_remembered_but_not_for_another_id(store: Store) -> None:
    life = store.begin_life("w1")
    store.remember_cluster("c")
    assert store.begin_life("w1").cluster_id == "c"
    assert store.begin_life().worker == life.worker
    assert store.begin_life("w2").cluster_id == ""


def test_one_process_a_work_dir(store: Store) -> None:
    with pytest.raises(WorkDirInUse):
        Store(store.layout.root)
    store.close()
    Store(store.layout.root).close()


def test_scratch_is_nobody_elses_business(store: Store) -> None:
    """D10: other users of the machine read nothing."""
    output(store, MAP)
    folders = [store.layout.root, store.layout.job("wc"), store.layout.maps("wc"), store.layout.code]
    assert {oct(folder.stat().st_mode & 0o777) for folder in folders} == {"0o700"}


def test_a_refused_output_goes_from_the_staging_place_by_its_own_names_only(tmp_path: Path) -> None:
    """FT4: and a name that points elsewhere is not followed."""
    staging, outside = tmp_path / "staging" / "attempts", tmp_path / "outside"
    staging.mkdir(parents=True)
    outside.touch()
    (staging / "0.r-00003.a2").touch()
    (staging / "0.r-00003.a1").touch()
    sides = [job.OutputFile(name="../../outside"), job.OutputFile(name="..")]
    drop_published(
        str(tmp_path / "staging"),
        job.TaskResult(file=job.OutputFile(name="0.r-00003.a2", side_files=sides)),
    )
    assert [path.name for path in staging.iterdir()] == ["0.r-00003.a1"]
    assert outside.exists()
