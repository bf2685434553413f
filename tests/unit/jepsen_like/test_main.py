"""`mr verify` and `mr chaos` as commands: what they judge, and the exit code that a script reads."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jepsen_like import main
from jepsen_like.faults import FAULTS
from mr.errors import Usage


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


@pytest.mark.parametrize("text", ["{", '{"t": 1}', "\x00"])
def test_what_is_no_history_is_said_not_judged(tmp_path: Path, text: str) -> None:
    (tmp_path / "h.jsonl").write_text(text)
    with pytest.raises(Usage):
        raise verify(tmp_path / "h.jsonl").exception or AssertionError("it was judged")


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
