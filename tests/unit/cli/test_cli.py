"""The frame of the command line: light, exact about usage, one message for an error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mr import cli, errors, render, shapes
from mr.render import Column
from mr.rpc import cluster_pb2 as pb
from tests.unit.cli.fake import FakeMaster, job

Start = Callable[..., FakeMaster]


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


LIGHT = ("grpc", "pyarrow", "google.protobuf", "rich", "aiohttp", "tenacity")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["submit", "--help"],
        ["run", "--help"],
        ["jobs", "--help"],
        ["config", "show"],
        ["--version"],
    ],
)
def test_help_loads_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    """Issue 2, part 1: `mr --help` imports neither grpc nor pyarrow."""
    code = (
        "import sys\nfrom mr.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as ended:\n    assert not ended.code, ended.code\n"
        f"print('heavy:', [name for name in {LIGHT!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_importing_mr_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"import sys, mr\nprint([name for name in {(*LIGHT, 'click')!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_every_command_loads_and_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (name for group in cli.COMMANDS.values() for name in group):
        code, out, _ = run(capsys, name, "--help")
        assert code == 0, name
        assert out.startswith(f"Usage: mr {name}")


USAGE = [
    (["frobnicate"], "no command 'frobnicate'"),
    (["job"], "did you mean `mr jobs`"),
    (["jobs", "--jsn"], "No such option '--jsn'. Did you mean '--json'?"),
    (["jobs", "--format", "xml"], "'xml' is not one of"),
    (["jobs", "--timeout", "soon"], "is not a duration"),
    (["submit"], "Missing argument 'JOB'"),
    (["submit", "a.py", "--priority", "101"], "not in the range"),
    (["submit", "a.py", "--env", "A"], "is not NAME=VALUE"),
]


@pytest.mark.parametrize(("words", "told"), USAGE, ids=[" ".join(row[0]) for row in USAGE])
def test_bad_usage_exits_2_with_a_hint(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert told in err


ANSWERS = [
    (errors.NotFound("no job wc", next="look again"), 6),
    (errors.NotAllowed("eve may not call GetJob"), 4),
    (errors.Rejected("the quota is used up", code="QUOTA"), 5),
    (errors.Usage("nonsense"), 2),
]


@pytest.mark.parametrize(("error", "code"), ANSWERS, ids=[str(row[1]) for row in ANSWERS])
def test_an_error_is_one_message_and_a_code(
    capsys: pytest.CaptureFixture[str], master: Start, error: errors.Error, code: int
) -> None:
    def script(method: str, request: Any) -> Any:
        return pb.JobList() if method == "ListJobs" else error

    one = master(script)
    found, out, err = run(capsys, "status", "wc", "--masters", one.address, "--insecure")
    assert (found, out) == (code, "")
    assert err.startswith("mr: ")
    assert "Traceback" not in err


def test_a_bug_is_named_as_one_and_traced_only_with_v(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mr.client.Client.workers", lambda self, include_lost: 1 / 0)
    code, _, err = run(capsys, "workers")
    assert code == 1
    assert "ZeroDivisionError" in err
    assert "this is a bug of mr" in err
    assert "Traceback" not in err
    assert "Traceback" in run(capsys, "workers", "-v")[2]


def test_tables_have_stable_columns(capsys: pytest.CaptureFixture[str], master: Start) -> None:
    """interface.md: `mr masters`."""
    listed = pb.MasterList(
        masters=[
            pb.MasterInfo(
                id="a",
                address="h1:7070",
                role="follower",
                term=13,
                commit=20417,
                disk_ms=4,
                version="0.9.2",
                up_ms=518_400_000,
            ),
            pb.MasterInfo(id="b", address="h2:7070", role="down", term=12, version="0.9.2"),
            pb.MasterInfo(
                id="c",
                address="h3:7070",
                role="leader",
                term=13,
                commit=20417,
                disk_ms=3,
                version="0.9.2",
                up_ms=518_400_000,
            ),
        ]
    )
    one = master(lambda method, request: listed)
    code, out, _ = run(capsys, "masters", "--masters", one.address, "--insecure")
    assert code == 0
    assert out.splitlines() == [
        "ID  ADDR     ROLE      TERM  COMMIT  LAG  DISK  VERSION    UP",
        "a   h1:7070  follower    13   20417    0  4 ms  0.9.2    6d0h",
        "b   h2:7070  down         -       -    -     -  0.9.2       -",
        "c   h3:7070  leader      13   20417    -  3 ms  0.9.2    6d0h",
        "2 of 3 up: works, can lose 0 more",
    ]
    found = json.loads(run(capsys, "masters", "--masters", one.address, "--insecure", "--json")[1])
    assert [(each["id"], each["role"], each["term"]) for each in found] == [
        ("a", "follower", 13),
        ("b", "down", 12),
        ("c", "leader", 13),
    ]


@pytest.mark.parametrize(
    ("roles", "line"),
    [
        (["leader", "follower", "follower"], "3 of 3 up: works, can lose 1 more"),
        (["leader"], "1 of 1 up: works, can lose 0 more"),
        (["candidate", "follower", "down"], "2 of 3 up: no leader yet"),
        (["follower", "down", "down"], "1 of 3 up: does not work; 1 more must come up"),
        (["leader", "follower", "follower", "down", "down"], "3 of 5 up: works, can lose 0 more"),
    ],
)
def test_how_many_masters_may_be_lost(roles: list[str], line: str) -> None:
    from mr.commands.masters import summary

    assert summary([pb.MasterInfo(id=str(n), role=role) for n, role in enumerate(roles)]) == line


def test_the_four_forms(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [
        Column("NAME", lambda row: row["name"]),
        Column("N", lambda row: str(row["n"]), right=True),
        Column("MORE", lambda row: row["more"], wide=True),
    ]
    items = [{"name": "naïve", "n": 1, "more": ""}, {"name": "b", "n": 200, "more": "x"}]
    expected = {
        "table": "NAME     N\nnaïve    1\nb      200\n",
        "wide": "NAME     N  MORE\nnaïve    1  -\nb      200  x\n",
        "jsonl": '{"name":"naïve","n":1,"more":""}\n{"name":"b","n":200,"more":"x"}\n',
        "json": json.dumps(items, indent=2, ensure_ascii=False) + "\n",
    }
    for form, text in expected.items():
        render.rows(items, columns, lambda row: row, form)  # type: ignore[arg-type]  # each is a Form
        assert capsys.readouterr().out == text, form


# Keys are only ever added: programs rely on these.
KEYS = {
    "job": "id name state reason owner queue priority submitted_ms started_ms ended_ms seconds steps counters reruns "
    "attempts leader_changes skipped output manifest code failure note applied_index term leader",
    "result": "id state reason attempts reruns leader_changes output manifest seconds skipped failure exit_code",
}


def test_the_keys_of_a_job() -> None:
    assert list(shapes.job(job("RUNNING"))) == KEYS["job"].split()
    assert list(shapes.result(job("SUCCEEDED"))) == KEYS["result"].split()
    assert shapes.job(job("SUCCEEDED"))["reruns"] == {}


def test_every_answer_is_json_whatever_the_state() -> None:
    for state in ("QUEUED", "RUNNING", "PUBLISHING", "SUCCEEDED", "FAILED", "CANCELLED"):
        json.dumps([shapes.job(job(state)), shapes.result(job(state))])


def test_the_built_in_demo_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """S0-16."""
    for _ in range(2):
        code, out, _ = run(capsys, "demo", "--json")
        assert (code, json.loads(out)["state"]) == (0, "SUCCEEDED")
        assert json.loads(out)["words"]["better"] == 8


def test_examples_are_listed_and_copied(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "wordcount" in {row["name"] for row in json.loads(run(capsys, "examples", "--json")[1])}
    assert run(capsys, "examples", "wordcount")[:2] == (0, "wordcount.py\n")
    assert (tmp_path / "wordcount.py").is_file()
    assert run(capsys, "examples", "wordcount")[0] == 5
    assert run(capsys, "examples", "nothing")[0] == 6


def test_config_show_says_who_set_what(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mr.toml").write_text("[worker]\nslots = 3\n")
    monkeypatch.setenv("MR_MASTERS", "h1,h2")
    rows = json.loads(run(capsys, "config", "show", "--origin", "--json")[1])
    origins = {row["setting"]: (row["value"], row["origin"]) for row in rows}
    assert origins["worker.slots"] == ("3", str(tmp_path / "mr.toml"))
    assert origins["cluster.masters"] == ("h1,h2", "environment MR_MASTERS")
    assert origins["master.heartbeat"] == ("50ms", "built-in")


def test_certificates_for_a_small_cluster(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """S0-20: a CA, and one certificate for each process; what exists is kept."""
    _, out, _ = run(
        capsys, "tls", "init", "--dir", str(tmp_path / "t"), "--master", "h1", "--host", "h1", "--json"
    )
    made = set(json.loads(out)["written"])
    assert {"ca.pem", "ca.key", "master-h1.pem", "worker.pem", "client.pem"} <= made
    before = (tmp_path / "t" / "ca.pem").read_bytes()
    _, out, _ = run(capsys, "tls", "init", "--dir", str(tmp_path / "t"), "--master", "h2", "--json")
    assert "master-h2.pem" in json.loads(out)["written"]
    _, out, _ = run(
        capsys, "tls", "init", "--dir", str(tmp_path / "t"), "--masters", "h3,h4", "--workers=w1,w2", "--json"
    )
    expected = {f"{name}.pem" for name in ("master-h3", "master-h4", "worker-w1", "worker-w2")}
    assert expected < set(json.loads(out)["written"])
    assert (tmp_path / "t" / "ca.pem").read_bytes() == before


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0
    assert "_MR_COMPLETE" in out
