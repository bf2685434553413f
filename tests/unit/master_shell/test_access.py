"""Who may call what: the table names every method, and nobody is let in by default (S2)."""

from __future__ import annotations

from typing import Any

import pytest

from consensus import replica
from master import access
from mr import errors, tls
from mr.rpc import cluster_pb2, session_pb2

METHODS = [
    f"/{service.full_name}/{method.name}"
    for file in (cluster_pb2.DESCRIPTOR, session_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
]


class Call:
    """As much of a gRPC context as `identify` looks at."""

    def __init__(self, pem: bytes | None = None, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self._auth = {"x509_pem_cert": [pem]} if pem else {}
        self._metadata = metadata

    def auth_context(self) -> dict[str, Any]:
        return self._auth

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("tls")
    tls.init(folder, masters=["a"], workers=["w1"], clients=["joe"])
    return {name: (folder / f"{name}.pem").read_bytes() for name in ("master-a", "worker-w1", "client-joe")}


def test_every_method_of_the_protocol_has_a_rule() -> None:
    assert set(METHODS) == set(access.VERBS)
    assert set(access.VERBS) >= access.CHANGES


@pytest.mark.parametrize(
    ("method", "allowed"),
    [
        ("/mr.Cluster/Submit", {"client-joe"}),
        ("/mr.Cluster/Cancel", {"client-joe"}),
        ("/mr.Cluster/Transfer", {"client-joe"}),
        ("/mr.Cluster/GetJob", {"client-joe", "master-a"}),
        ("/mr.Blobs/Get", {"client-joe", "master-a", "worker-w1"}),
        ("/mr.Blobs/Put", {"client-joe", "master-a"}),
        ("/mr.Sessions/Session", {"worker-w1"}),
        ("/mr.Cluster/NoSuchMethod", set()),
    ],
)
def test_a_role_can_do_exactly_its_verbs(
    method: str, allowed: set[str], certificates: dict[str, bytes]
) -> None:
    may = set()
    for name, pem in certificates.items():
        caller = access.identify(Call(pem))  # type: ignore[arg-type]  # a stand-in
        assert caller.verified
        assert str(caller) == name.partition("-")[2]
        try:
            access.admit(method, caller)
            may.add(name)
        except errors.NotAllowed:
            continue
    assert may == allowed


@pytest.mark.parametrize(
    ("claimed", "then"),
    [
        ((("mr-user", "joe"),), "joe (unverified)"),
        ((), "anonymous (unverified)"),
        ((("mr-user", "joe\n\x1b[31mroot"),), "joe[31mroot (unverified)"),
        ((("mr-user", "x" * 1000),), "x" * 64 + " (unverified)"),
    ],
)
def test_on_plaintext_a_name_is_only_a_claim(claimed: tuple[tuple[str, str], ...], then: str) -> None:
    assert str(access.identify(Call(metadata=claimed))) == then  # type: ignore[arg-type]  # a stand-in


def test_a_certificate_wins_over_any_claim(certificates: dict[str, bytes]) -> None:
    call = Call(certificates["worker-w1"], (("mr-user", "root"),))
    assert access.identify(call) == access.Identity("w1", frozenset({"worker"}), verified=True)  # type: ignore[arg-type]  # a stand-in


@pytest.mark.parametrize(
    ("promise", "error", "then", "may_be_applied"),
    [
        ("a hint to the leader travels", replica.NotLeader("b"), errors.NotLeader, False),
        ("definite: nothing written", replica.Unavailable("no"), errors.Unavailable, False),
        ("indefinite stays indefinite (C9)", replica.CommitUnknown("?"), errors.CommitUnknown, True),
        ("ours pass unchanged", errors.NotFound("no job"), errors.NotFound, False),
    ],
)
def test_errors_keep_their_meaning(
    promise: str, error: Exception, then: type[errors.Error], may_be_applied: bool
) -> None:
    raised = access.raised(error, lambda peer: f"{peer}:7070")
    assert type(raised) is then, promise
    assert raised.maybe_applied is may_be_applied, promise
    if isinstance(raised, errors.NotLeader):
        assert (raised.leader, raised.address) == ("b", "b:7070"), promise
