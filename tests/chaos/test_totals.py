"""The figures of a campaign count what was proven, once."""

from __future__ import annotations

from pathlib import Path

from jepsen_like.verdict import Outcome
from tests.chaos import campaign, totals
from tests.unit.jepsen_like.test_checkers import event, good


def test_only_proven_faults_and_the_jobs_they_hurt_are_counted() -> None:
    history, evidence = good()
    history = [e for e in history if e.process != "nemesis"]
    pains = {
        20: ("power-cut", {"cuts": 1, "bytes": 7}),
        21: ("halves", {"dropped": 3}),
        22: ("kill-burst", None),
    }
    for number, (name, proof) in pains.items():
        at = 1.2 if number < 22 else 7.0
        history += [
            event(at, "hurt", name, {}, id=number),
            event(at + 0.1, "heal", name, id=number),
            event(at + 0.1, "proof", name, proof, id=number),
        ]
    for job in evidence.jobs:
        assert job.status is not None
        job.status |= {"submitted_ms": 1_000, "ended_ms": 6_000}
    unended = evidence.jobs[1].status
    assert unended is not None
    unended["ended_ms"] = None  # as shown of a job that has not ended
    found = totals.Totals()
    found.add(Outcome.VALID, history, evidence, 60.0)
    assert (found.kills, found.power_cuts, found.bytes_lost, found.partitions) == (1, 1, 7, 1)
    assert found.proven == {"power-cut": 1, "halves": 1}
    assert (found.jobs, found.jobs_hurt) == (2, 1), "the second job came after the last proven fault"
    assert found.bytes_compared == sum(
        part["bytes"] for job in evidence.jobs for part in job.reference.values()
    )


def test_a_run_that_proves_nothing_counts_only_as_a_run() -> None:
    history, evidence = good()
    found = totals.Totals()
    found.add(Outcome.UNKNOWN, history, evidence, 60.0)
    assert found == totals.Totals(outcomes={"unknown": 1}, seconds=60.0)


def test_sums_of_campaigns_add_up(tmp_path: Path) -> None:
    history, evidence = good()
    one = totals.Totals()
    one.add(Outcome.VALID, history, evidence, 60.0)
    totals.save(one, tmp_path / "sums.json")
    again = totals.load(tmp_path / "sums.json")
    again.add(Outcome.VALID, history, evidence, 60.0)
    assert again == totals.merged([one, one])
    assert again.operations == 2 * one.operations > 0
    assert all(again.lines())


def test_a_campaign_is_a_function_of_its_seed() -> None:
    first = [next(configs) for configs in (campaign.at_random(5), campaign.at_random(5))]
    assert first[0] == first[1]
    assert next(campaign.deaths(5)).faults == campaign.DEATHS
