"""Certificates: who is let in, as whom, and that a renewed certificate needs no restart (S0-21, S1, S2)."""

from __future__ import annotations

from concurrent import futures
from pathlib import Path

import grpc
import pytest

from mr import tls


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    tls.init(directory, ["h1", "10.0.0.1"])
    return directory


@pytest.fixture
def server(certificates):
    """A server of master a that answers every call with what it believes about the caller."""
    yield from _serve(tls.server_credentials(tls.find(certificates, "master", "a")))


def _serve(credentials):
    def answer(_, context):
        return repr(tls.peer_role(context.auth_context())).encode()

    handlers = {"Who": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def _ask(address, credentials, *, role="", name=""):
    options = [*tls.channel_options(role, name), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(address, credentials, options) as channel:
        return channel.unary_unary("/t/Who")(b"", timeout=5).decode()


@pytest.mark.parametrize(
    ("role", "name", "expected"),
    [
        ("master", "b", ("master", "b")),
        ("worker", "w17", ("worker", "worker")),  # the role's common certificate
        ("client", None, ("client", "client")),
    ],
)
def test_identity_comes_from_the_certificate(certificates, server, role, name, expected):
    assert _ask(server, tls.channel_credentials(tls.find(certificates, role, name))) == repr(expected)


@pytest.mark.parametrize(
    ("role", "name", "accepted"),
    [
        ("", "", True),
        ("master", "", True),
        ("master", "a", True),
        ("master", "b", False),
        ("worker", "", False),
    ],
)
def test_a_client_checks_whom_it_reached(certificates, server, role, name, accepted):
    credentials = tls.channel_credentials(tls.find(certificates, "client"))
    if accepted:
        assert _ask(server, credentials, role=role, name=name)
    else:
        with pytest.raises(grpc.RpcError) as caught:
            _ask(server, credentials, role=role, name=name)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_another_ca_is_not_let_in(certificates, server, tmp_path):
    tls.init(tmp_path)
    other = tls.find(tmp_path, "client")
    files = tls.TlsFiles(tls.find(certificates, "client").ca, other.cert, other.key)
    with pytest.raises(grpc.RpcError):
        _ask(server, tls.channel_credentials(files))


def test_nobody_is_let_in_without_a_certificate(certificates, server):
    with pytest.raises(grpc.RpcError):
        _ask(server, grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes()))
    with pytest.raises(grpc.RpcError), grpc.insecure_channel(server) as channel:
        channel.unary_unary("/t/Who")(b"", timeout=5)


def test_a_renewed_certificate_serves_without_a_restart(tmp_path):
    tls.init(tmp_path)
    client = tls.channel_credentials(tls.find(tmp_path, "client"))
    serving = _serve(tls.server_credentials(tls.find(tmp_path, "master", "a")))
    address = next(serving)
    try:
        for stem in ("master-a.pem", "master-a.key"):
            (tmp_path / stem).unlink()
        assert _ask(address, client), "a renewal under way must not stop the server"
        tls.issue(tmp_path, "master", "renewed", stem="master-a")
        assert _ask(address, client, role="master", name="renewed")
    finally:
        next(serving, None)


def test_init_keeps_what_exists_and_adds_what_is_missing(tmp_path):
    first = tls.init(tmp_path, masters=["a"])
    before = {path: path.read_bytes() for path in first}
    second = tls.init(tmp_path, masters=["a", "b"])
    assert {path.name for path in second} == {"master-b.key", "master-b.pem"}
    assert {path: path.read_bytes() for path in first} == before


def test_secrets_are_only_for_their_owner(tmp_path):
    tls.init(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").glob("*.key")} == {0o600}


def test_a_missing_certificate_names_the_command(tmp_path):
    with pytest.raises(tls.TlsError, match=r"mr tls init --dir .* --master a"):
        tls.find(tmp_path, "master", "a")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "x" * 64, "a\n"])
def test_a_name_that_is_no_name_is_refused(certificates: Path, name):
    with pytest.raises(tls.TlsError):
        tls.issue(certificates, "master", name)


@pytest.mark.parametrize(
    ("promise", "workers", "then"),
    [
        ("a host with one worker's certificate runs that worker", ["w1"], "w1"),
        ("with two the operator says which", ["w1", "w2"], None),
        ("a common certificate fits any name", ["worker"], None),
        ("nor does one beside it bind", ["worker", "w1"], None),
        ("none, none", [], None),
    ],
)
def test_the_name_that_a_hosts_certificate_leaves(tmp_path, promise, workers, then):
    tls.init(tmp_path, workers=workers)
    assert tls.only_name(tmp_path, "worker") == then, promise
