"""A call is retried under the same request until it is answered; leader hints are followed; nothing else repeats."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from mr import errors
from mr.calls import Masters
from mr.channel import full_address, is_loopback
from mr.rpc import cluster_pb2 as pb
from mr.settings import Tls
from tests.unit.cli.fake import FakeMaster, job

PLAIN = Tls(insecure=True)
Start = Callable[..., FakeMaster]


def ask(masters: Masters, **options: Any) -> Any:
    return masters.call("GetJob", pb.GetJobRequest(job="wc"), **options)


def test_a_hint_to_the_leader_is_followed_and_remembered(master: Start) -> None:
    leader = master(lambda method, request: job("RUNNING"))
    follower = master(lambda method, request: errors.NotLeader("b", leader.address))
    masters = Masters([follower.address], PLAIN)
    for _ in range(3):
        assert ask(masters).leader == "a"
    assert (len(follower.calls), len(leader.calls)) == (1, 3)
    masters.close()


def test_a_dead_master_is_left_for_the_next(master: Start) -> None:
    alive = master(lambda method, request: job("RUNNING"))
    masters = Masters(["127.0.0.1:1", alive.address], PLAIN)
    assert ask(masters).id
    assert masters.target == alive.address
    masters.close()


@pytest.mark.parametrize(
    "error",
    [errors.NotLeader(None), errors.Unavailable("no majority"), errors.CommitUnknown("perhaps")],
    ids=repr,
)
def test_what_a_repeat_can_cure_is_repeated_as_it_was(master: Start, error: errors.Error) -> None:
    """The request id of every try is the same: a retry is the same request (T2)."""
    answers = itertools.chain([error] * 3, itertools.repeat(pb.CancelReply()))
    one = master(lambda method, request: next(answers))
    masters = Masters([one.address], PLAIN)
    masters.call("Cancel", pb.CancelRequest(job="wc", request_id="r1"))
    assert [request.request_id for request in one.asked("Cancel")] == ["r1"] * 4
    masters.close()


@pytest.mark.parametrize(
    "error",
    [
        errors.Rejected("no", code="QUOTA"),
        errors.NotFound("no job"),
        errors.NotAllowed("you may not"),
        errors.Usage("bad"),
    ],
    ids=repr,
)
def test_a_definite_answer_is_not_asked_for_twice(master: Start, error: errors.Error) -> None:
    one = master(lambda method, request: error)
    masters = Masters([one.address], PLAIN)
    with pytest.raises(type(error), match=str(error)):
        ask(masters)
    assert len(one.calls) == 1
    masters.close()


FINAL = [
    ("nobody answers", None, errors.Unavailable, "no master answers"),
    ("no leader is elected", errors.NotLeader(None), errors.Unavailable, "have no leader"),
    ("no majority", errors.Unavailable("no majority"), errors.Unavailable, "cannot serve this: no majority"),
    ("a read takes no effect", errors.CommitUnknown("perhaps"), errors.Unavailable, "cannot serve this"),
]


@pytest.mark.parametrize(("promise", "error", "kind", "told"), FINAL, ids=[row[0] for row in FINAL])
def test_when_patience_ends(
    master: Start, promise: str, error: errors.Error | None, kind: type[errors.Error], told: str
) -> None:
    """Never "not applied" when one try may have been: exit 3 either way, and a sentence on what to do."""
    address = master(lambda method, request: error).address if error else "127.0.0.1:1"
    masters = Masters([address], PLAIN, timeout=0.4)
    with pytest.raises(kind, match=told) as raised:
        ask(masters)
    assert raised.value.next, promise
    assert raised.value.exit_code == 3
    masters.close()


def test_the_one_master_that_answers_is_heard_among_the_dead(master: Start) -> None:
    """One of three alive: not "nobody answers", whoever was asked last."""
    alive = master(lambda method, request: errors.NotLeader(None)).address
    masters = Masters([alive, "127.0.0.1:1", "127.0.0.1:2"], PLAIN, timeout=0.6)
    with pytest.raises(errors.Unavailable, match=r"have no leader .* 1 of 3 answered"):
        ask(masters)
    masters.close()


def test_one_indefinite_try_makes_the_whole_call_indefinite(master: Start) -> None:
    answers = itertools.chain(
        [errors.CommitUnknown("perhaps")], itertools.repeat(errors.Unavailable("no majority"))
    )
    one = master(lambda method, request: next(answers))
    masters = Masters([one.address], PLAIN, timeout=0.3)
    with pytest.raises(errors.CommitUnknown, match="may yet take effect") as raised:
        masters.call("Cancel", pb.CancelRequest(job="wc", request_id="r1"))
    assert "never done twice" in raised.value.next
    masters.close()


def test_a_master_that_is_silent_does_not_hold_the_client(
    master: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FT4 on a master: a stopped process neither answers nor refuses."""
    monkeypatch.setattr("mr.calls.TRY_S", 0.2)
    silent = master(lambda method, request: time.sleep(2) or job("QUEUED"))
    lively = master(lambda method, request: job("RUNNING"))
    masters = Masters([silent.address, lively.address], PLAIN)
    assert ask(masters).state == job("RUNNING").state
    masters.close()


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("h1", "h1:7070"),
        ("h1:9", "h1:9"),
        ("a=h1:7070/9001", "h1:7070"),
        ("a=h1", "h1:7070"),
        ("::1", "[::1]:7070"),
        ("[::1]:9", "[::1]:9"),
        ("[fe80::1]", "[fe80::1]:7070"),
        (" 10.0.0.1 ", "10.0.0.1:7070"),
    ],
)
def test_addresses_as_people_write_them(written: str, address: str) -> None:
    assert full_address(written) == address


@pytest.mark.parametrize("written", ["", "h1:port", ":7070"])
def test_what_is_no_address(written: str) -> None:
    with pytest.raises(errors.Usage, match="is not the address of a master"):
        full_address(written)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("h1:1", False),
        ("10.0.0.1:1", False),
    ],
)
def test_plaintext_goes_to_this_machine_only(address: str, local: bool) -> None:
    """S1: elsewhere it is exit 4, before a byte is sent."""
    assert is_loopback(address) is local
    if not local:
        masters = Masters([address], PLAIN, timeout=0.2)
        with pytest.raises(errors.NotAllowed, match="plaintext goes to this machine only"):
            ask(masters)


DYING = """
import os
from tests.unit.cli.fake import FakeMaster
one = FakeMaster(lambda method, request: os._exit(9))
print(one.address, flush=True)
input()
"""


def test_a_master_that_dies_over_a_write_leaves_it_undecided() -> None:
    """C9, C11: the cancel was in the log when every master was killed; after it had been called refused for certain,
    the job was CANCELLED all the same (campaign of every fault, seed 51, run 692888630)."""
    with subprocess.Popen(
        [sys.executable, "-c", DYING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            masters = Masters([process.stdout.readline().strip()], PLAIN)
            with pytest.raises(errors.CommitUnknown, match="may yet take effect"):
                masters.call("Cancel", pb.CancelRequest(job="wc", request_id="r1"), timeout=1.0)
            masters.close()
        finally:
            process.kill()


def test_a_write_that_never_met_a_master_is_refused_for_certain() -> None:
    masters = Masters(["127.0.0.1:1", "127.0.0.1:2"], PLAIN)
    with pytest.raises(errors.Unavailable, match="no master answers"):
        masters.call("Cancel", pb.CancelRequest(job="wc", request_id="r1"), timeout=0.5)
    masters.close()
