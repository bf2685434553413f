"""What the scenes expect of their jobs, against the same job files run here; who is asked what by the probes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from jepsen_like import probes, scene_jobs
from jepsen_like.collect import Collector
from jepsen_like.evidence import Job
from jepsen_like.scenes import JOBS, Expected, Scenes, expected, write_inputs
from mr.local import Local
from mr.output import MANIFEST


def job_file(shape: str, folder: Path) -> Path:
    file = folder / f"{shape}.py"
    file.write_text(f"{Path(scene_jobs.__file__).read_text()}\n\nimport mr\n\n{JOBS[shape]}\n")
    return file


@pytest.mark.parametrize("shape", sorted(JOBS.keys() - {"late"}))  # which must fail
def test_what_is_expected_is_what_a_local_run_gives(shape: str, tmp_path: Path) -> None:
    """D1 without a cluster: the harness would blame no product that is right."""
    inputs = tmp_path / "in"
    write_inputs(shape, inputs, Random(3))
    should = expected(shape, sorted(inputs.iterdir()), tmp_path / "again")
    out = tmp_path / "out"
    result = Local().run(job_file(shape, tmp_path), inputs, out)
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    found.pop(MANIFEST)
    assert found == should.files
    assert {name: result.counters[name] for name in should.counters} == should.counters


def test_every_scene_has_a_name_that_may_be_asked_for(tmp_path: Path) -> None:
    played: list[str] = []

    class Silent(Scenes):
        def _shape(self, shape: str) -> Callable[[str, Random], None]:
            return lambda number, rng: played.append(shape)

        def _occupied(self, number: str, rng: Random) -> None:
            played.append("occupied")

        def _retried(self, number: str, rng: Random) -> None:
            played.append("retried")

    silent = Silent(None, 1, tmp_path, None, None, "chain,occupied,retried")  # type: ignore[arg-type]  # nobody is called
    silent.until = 0.0
    silent.run()
    assert sorted(played) == ["chain", "occupied", "retried"]


@pytest.mark.parametrize(("state", "owner"), [("SUCCEEDED", "second"), ("CANCELLED", "first"), ("", "first")])
def test_a_place_belongs_to_the_last_that_succeeded(tmp_path: Path, state: str, owner: str) -> None:
    collector = Collector(tmp_path, 0)
    output = {"part-r-00000": {"bytes": 1, "sha256": "aa"}}
    for id, ended in (("first", "SUCCEEDED"), ("second", state)):
        told = {"state": ended} if ended else None
        collector.evidence.jobs.append(Job(id=id, status=told, output=dict(output), reference=dict(output)))
    collector.expect_scenes({"first": Expected("sides"), "second": Expected("chain", over="first")})
    collector._forgive_overwritten()
    (mine,) = (job for job in collector.evidence.jobs if job.id == owner)
    (other,) = (job for job in collector.evidence.jobs if job.id != owner)
    assert (mine.elsewhere, mine.output, mine.reference) == (False, output, output)
    assert (other.elsewhere, other.output, other.reference) == (True, None, {})


def test_the_probes_know_every_method_of_every_service() -> None:
    """S2: a method that is added without being added here would not be probed."""
    from mr.rpc import cluster_pb2, data_pb2, session_pb2

    there = {
        f"/{service.full_name}/{method.name}"
        for module in (cluster_pb2, session_pb2, data_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert {*probes.MASTER, *probes.WORKER} == there
