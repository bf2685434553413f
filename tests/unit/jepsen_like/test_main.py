"""`mr verify` and `mr chaos` as commands: what they judge, and the exit code that a script reads."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jepsen_like import main
from jepsen_like.faults import FAULTS
from jepsen_like.nemesis import read_script
from jepsen_like.run import RunConfig, steps_of
from mr.errors import Usage


class Anywhere:
    """A place of three masters where everything else is possible."""

    def __init__(self) -> None:
        self.masters = ("a", "b", "c")
        self.abilities = defaultdict[str, str](str)


def lines(*calls: tuple[str, str, object]) -> str:
    """A history of one client: (operation, kind of its end, answer) on job x."""
    rows = []
    for number, (op, kind, answer) in enumerate(calls):
        for t, what, value in ((2 * number, "invoke", {"job": "x"}), (2 * number + 1, kind, answer)):
            row = {"t": t, "process": "me", "kind": what, "op": op, "value": value, "node": "", "id": number}
            rows.append(json.dumps(row))
    return "\n".join(rows) + "\n"


def verify(path: Path) -> Result:
    return CliRunner().invoke(main.verify, [str(path)], standalone_mode=False)


def test_a_sound_history_is_valid_and_a_spoilt_one_is_a_violation(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(lines(("submit", "ok", {"existed": False}), ("status", "ok", {"state": "QUEUED"})))
    assert verify(file).return_value == 0
    file.write_text(lines(("submit", "ok", {"existed": False}), ("status", "ok", {"state": "absent"})))
    found = verify(file)
    assert found.return_value == 10
    assert "cannot be placed" in found.output


def test_a_history_without_operations_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text("")
    assert verify(tmp_path / "h.jsonl").return_value == 1


GOOD = lines(("submit", "ok", {"existed": False}))
CALL, END = GOOD.splitlines()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1 is no JSON, or cut short"),
        (GOOD + CALL[: len(CALL) // 2], "line 3 is no JSON, or cut short"),
        ("[1]", "line 1 is no event but list"),
        ('{"t": 1}', "line 1 has no 'process'"),
        (CALL.replace('"invoke"', '"invoked"'), "kind 'invoked' is none of"),
        (CALL.replace('"t": 0', '"t": "noon"'), "t is 'noon'"),
        (END, "ends, but was never made"),
        (GOOD + END, "ends a second time"),
        (CALL + "\n" + CALL, "is made a second time"),
        ("\x00\xff", "is no JSON"),
    ],
)
def test_what_is_no_history_is_said_not_judged(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "h.jsonl").write_text(text)
    error = verify(tmp_path / "h.jsonl").exception
    assert isinstance(error, Usage)
    assert words in str(error)
    assert error.exit_code == 2


def test_bytes_that_are_no_text_are_no_history(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_bytes(b"\xff\xfe\x00")
    assert isinstance(verify(tmp_path / "h.jsonl").exception, Usage)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("submit", "ok", {"job": "x"}), "has no 'existed'"),
        (("status", "ok", None), "has no 'state'"),
    ],
)
def test_an_answer_that_says_nothing_is_unknown(
    tmp_path: Path, call: tuple[str, str, object], words: str
) -> None:
    (tmp_path / "h.jsonl").write_text(lines(call))
    found = verify(tmp_path / "h.jsonl")
    assert found.return_value == 1
    assert words in found.output


def other(*events: tuple[str, str, object, int]) -> str:
    """As other systems write a history: no ids, other names, one register."""
    rows = [
        json.dumps({"type": kind, "f": f, "value": value, "process": process, "time": n})
        for n, (kind, f, value, process) in enumerate(events)
    ]
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("seen", "code"), [(3, 0), (1, 0), (2, 10), (None, 10)], ids=["cas", "before", "nowhere", "forgotten"]
)
def test_a_register_history_of_another_system_is_judged(tmp_path: Path, seen: object, code: int) -> None:
    (tmp_path / "h.jsonl").write_text(
        other(
            ("invoke", "write", 1, 0),
            ("ok", "write", 1, 0),
            ("invoke", "cas", [1, 3], 1),
            ("info", "cas", [1, 3], 1),
            ("invoke", "read", None, 0),
            ("ok", "read", seen, 0),
        )
    )
    assert verify(tmp_path / "h.jsonl").return_value == code


def test_a_folder_without_evidence_is_judged_by_its_history_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text(GOOD)
    found = verify(tmp_path)
    assert found.return_value == 0
    assert "no evidence.json" in found.output


@pytest.mark.parametrize("text", ["{", "[]", '{"jobs": 1}'])
def test_evidence_that_is_none_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "history.jsonl").write_text(GOOD)
    (tmp_path / "evidence.json").write_text(text)
    assert isinstance(verify(tmp_path).exception, Usage)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"files": [{"name": "a"}]}'])
def test_a_marker_that_is_no_manifest_is_a_violation(tmp_path: Path, text: str) -> None:
    (tmp_path / "_SUCCESS").write_text(text)
    assert verify(tmp_path).return_value == 10


def test_an_output_is_held_against_its_manifest(tmp_path: Path) -> None:
    """D3, as anybody can check it without a cluster."""
    data = b"a\t1\n"
    row = {"name": "part-r-00000", "bytes": 4, "records": 1, "sha256": hashlib.sha256(data).hexdigest()}
    (tmp_path / "_SUCCESS").write_text(json.dumps({"files": [row]}))
    (tmp_path / "part-r-00000").write_bytes(data)
    assert verify(tmp_path).return_value == 0
    (tmp_path / "part-r-00000").write_bytes(b"a\t2\n")
    found = verify(tmp_path)
    assert found.return_value == 10
    assert "differs   part-r-00000" in found.output


def test_every_fault_is_listed() -> None:
    said = CliRunner().invoke(main.chaos, ["faults"], standalone_mode=False).output
    assert [name for name in FAULTS if name not in said] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no fault"),
        ("# nothing but a remark\n", "names no fault"),
        ("1.0 kill-leader\n", "line 1 has 2 words"),
        ("\n1.0 kill-leda 2\n", "line 2: there is no fault kill-leda"),
        ("soon kill-leader 2", "are to be seconds"),
        ("-1 kill-leader 2", "are no times"),
        ("1 kill-leader inf", "are no times"),
        ("nan kill-leader 1", "are no times"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_refused_before_anything_starts(
    tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "mine"
    file.write_text(text)
    found = CliRunner().invoke(main.run, ["--schedule", str(file)], standalone_mode=False)
    assert isinstance(found.exception, Usage)
    assert words in str(found.exception)


def test_a_schedule_of_ones_own() -> None:
    text = "10 halves 2.5  # while it elects\n\n1.5 kill-leader 1\n"
    assert read_script(text, FAULTS) == ((1.5, "kill-leader", 1.0), (10.0, "halves", 2.5))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RunConfig(seed=1, script=((1.0, "kill-leda", 1.0),)), "no fault kill-leda"),
        (RunConfig(seed=1, script=((1.0, "minority", 1.0),)), "minority needs 5 masters"),
        (RunConfig(seed=1, faults="kill-leda"), "no fault kill-leda"),
    ],
)
def test_a_fault_that_cannot_be_played_as_asked_is_refused(config: RunConfig, words: str) -> None:
    place = Anywhere()
    with pytest.raises(Usage, match=words):
        steps_of(config, place, lambda _text: None)  # type: ignore[arg-type]  # it has what is looked at
