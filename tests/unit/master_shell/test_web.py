"""The pages and the numbers of a master: on every replica, without the internet, and without secrets."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from master import pages
from mr.rpc import cluster_pb2 as pb
from mr.rpc import job_pb2, table_pb2

Town = Any
PAGES = ["/", "/running", "/jobs", "/jobs/wc-1", "/jobs/wc-1/tasks", "/cluster"]


def submit_command(job: str = "wc-1") -> table_pb2.Command:
    spec = job_pb2.JobSpec(
        job_id=job,
        name="<script>alert(1)</script>",
        steps=[job_pb2.Step(mapper="m", reducer="r", reduces=2, partitioner="hash")],
        maps=2,
        code_digest=b"c" * 32,
        splits_digest=b"s" * 32,
        output=job_pb2.Output(path=f"/out/{job}"),
        staging=f"/.out.{job}",
        job_file="wc.py",
        args=["--password=hunter2"],
        env={"TOKEN": "hunter2"},
    )
    return table_pb2.Command(submit=table_pb2.SubmitJob(spec=spec, request_id=job, identity="joe"))


async def get(town: Town, name: str, path: str, host: str = "localhost") -> tuple[int, str]:
    url = f"http://{town.masters[name].masters.http}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, headers={"Host": host}) as answer:
        return answer.status, await answer.text()


@pytest.fixture
async def busy(town: Town) -> Town:
    """Leader a, and one job that nobody runs."""
    leader = town.elect("a")
    while not leader.driver.leading:
        await asyncio.sleep(0.01)
    await leader.cluster._propose(submit_command())
    return town


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("name", ["a", "b"])
async def test_every_page_works_on_every_master_and_needs_nothing_from_elsewhere(
    busy: Town, name: str, path: str
) -> None:
    """S0-07, P-09."""
    status, text = await get(busy, name, path)
    assert status == 200
    assert f"master {name} · leader a" in text
    links = re.findall(r'(?:href|src)="([^"]*)"', text)
    assert links
    assert all(link.startswith(("/", "#", "?")) and not link.startswith("//") for link in links), links
    for link in links:
        if link.startswith("/static"):
            assert (await get(busy, name, link))[0] == 200


@pytest.mark.parametrize("path", [*PAGES, "/v1/jobs", "/v1/jobs/wc-1", "/metrics"])
async def test_no_page_tells_secrets_or_runs_what_users_wrote(busy: Town, path: str) -> None:
    """S5."""
    for name in ("a", "b"):
        _, text = await get(busy, name, path)
        assert "hunter2" not in text
        if not path.startswith("/v1"):
            assert "<script" not in text


async def test_a_follower_without_leader_says_that_it_may_be_late(busy: Town) -> None:
    await busy.masters["a"]._server.stop(0)  # it leads still, and does not answer
    status, text = await get(busy, "b", "/jobs")
    assert status == 200
    assert "wc-1" in text
    assert "The leader does not answer" in text


async def test_health_is_live_without_a_leader_and_ready_with_one(town: Town) -> None:
    assert await get(town, "b", "/healthz") == (200, "ok\n")
    assert (await get(town, "b", "/readyz"))[0] == 503
    town.elect("a")
    assert await get(town, "b", "/readyz") == (200, "ok\n")


async def test_another_site_cannot_read_through_a_browser(busy: Town) -> None:
    assert (await get(busy, "a", "/jobs", host="evil.example"))[0] == 403
    assert (await get(busy, "a", "/healthz", host="evil.example"))[0] == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/jobs/nope", 404),
        ("/v1/jobs/nope", 404),
        ("/jobs/wc-1/tasks?offset=x", 400),
        ("/nope", 404),
        ("/static/../web.py", 404),
    ],
)
async def test_wrong_addresses_are_answered_as_such(busy: Town, path: str, status: int) -> None:
    assert (await get(busy, "a", path))[0] == status


async def test_the_rest_view_is_what_its_description_says(busy: Town) -> None:
    _, text = await get(busy, "b", "/v1/openapi.json")
    described = json.loads(text)["paths"]
    for path, methods in described.items():
        assert set(methods) == {"get"}, "nothing here changes anything"
        status, text = await get(busy, "b", path.replace("{job}", "wc-1"))
        assert status == 200, path
        schema = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        answer = json.loads(text)
        assert isinstance(answer, list) == (schema["type"] == "array"), path
        if isinstance(answer, dict):
            assert answer["live"] is True, path


async def test_metrics_have_the_agreed_names_and_no_label_that_grows(busy: Town) -> None:
    """S0-22."""
    _, text = await get(busy, "a", "/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    agreed = {
        "mr_raft_term",
        "mr_raft_is_leader",
        "mr_raft_leader_changes",
        "mr_raft_commit_seconds",
        "mr_raft_fsync_seconds",
        "mr_raft_log_bytes",
        "mr_raft_snapshot_seconds",
        "mr_jobs",
        "mr_tasks",
        "mr_task_attempts",
        "mr_tasks_rerun",
        "mr_task_seconds",
        "mr_shuffle_fetch_failures",
        "mr_scheduler_queue_depth",
        "mr_scheduler_decision_seconds",
    }
    assert agreed <= set(families)
    assert all(name.startswith("mr_") for name in families)
    labels = {label for family in families.values() for sample in family.samples for label in sample.labels}
    assert labels <= {"state", "kind", "result", "reason", "cause", "le"}
    values = {tuple(sample.labels.values()): sample.value for sample in families["mr_tasks"].samples}
    assert values["map", "idle"] == 2
    assert families["mr_raft_is_leader"].samples[0].value == 1
    assert families["mr_scheduler_queue_depth"].samples[0].value == 4


def attempt(task: int, started_ms: int, kind: job_pb2.Kind = job_pb2.MAP) -> pb.TaskInfo:
    who = job_pb2.TaskId(job="j", kind=kind, index=task)
    running = pb.AttemptInfo(
        attempt=job_pb2.AttemptId(task=who, number=1), state="running", started_ms=started_ms
    )
    return pb.TaskInfo(task=who, attempts=[running])


def test_stragglers_come_first_beside_the_median_of_their_kind() -> None:
    tasks = [attempt(0, 9_000), attempt(1, 9_000), attempt(2, 1_000), attempt(0, 5_000, job_pb2.REDUCE)]
    rows = pages.stragglers(tasks, now=10_000)
    assert [(row.task, row.seconds, row.times_median) for row in rows] == [
        ("m-2", 9.0, 9.0),
        ("r-0", 5.0, 1.0),
        ("m-0", 1.0, 1.0),
        ("m-1", 1.0, 1.0),
    ]
