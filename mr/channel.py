"""How a client reaches a master: one gRPC channel, mutually authenticated, or plaintext to this machine only.

The law: without certificates nothing leaves loopback (exit 4). Which server may answer is decided by its
certificate, not by its address (mr/tls.py).
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mr import tls as certificates
from mr.errors import NotAllowed, Usage
from mr.settings import Tls

if TYPE_CHECKING:
    import grpc
    import grpc.aio

PORT = 7070
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    # gRPC's own repetition of a call whose server says goodbye can hang; whoever calls repeats it anyway.
    ("grpc.enable_retries", 0),
    # A dead host is noticed within 15 s also while a call waits for nothing but news.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # A master that comes back is tried soon: the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3_000),  # in truth the least time to connect in
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


def full_address(address: str) -> str:
    """`h1` -> `h1:7070`, `[::1]` -> `[::1]:7070`; `a=h1:7070/9001`, as masters are told their peers,
    works too."""
    place = address.strip().rpartition("=")[2].partition("/")[0]
    if place.startswith("["):
        return place if "]:" in place else f"{place}:{PORT}"
    if place.count(":") > 1:
        return f"[{place}]:{PORT}"
    host, colon, port = place.partition(":")
    if not host or (colon and not port.isdigit()):
        raise Usage(
            f"{address!r} is not the address of a master", next="write host or host:port, separated by commas"
        )
    return place if colon else f"{host}:{PORT}"


def is_loopback(address: str) -> bool:
    """Whether host:port names this machine's loopback, by its spelling alone."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def client_files(tls: Tls) -> certificates.TlsFiles | None:
    """The client's certificate by configuration, else in the default folder; None means plaintext.

    Raises Usage for a configured certificate that is not there or half configured.
    """
    if tls.insecure:
        return None
    single = {"ca": tls.ca, "cert": tls.cert, "key": tls.key}
    missing = [name for name, path in single.items() if path is None]
    if len(missing) < len(single):
        if missing and tls.dir is None:
            raise Usage(f"[tls] lacks {' and '.join(missing)}", next="set ca, cert and key, or dir alone")
        base = _find(tls.dir) if missing and tls.dir else None
        return certificates.TlsFiles(
            tls.ca or _of(base, "ca"), tls.cert or _of(base, "cert"), tls.key or _of(base, "key")
        )
    if tls.dir is not None:
        return _find(tls.dir)
    try:
        return certificates.find(certificates.default_dir(), "client")
    except certificates.TlsError:
        return None


def open_channel(address: str, tls: Tls) -> grpc.Channel:
    """A channel for blocking calls. Raises NotAllowed for plaintext to another machine, Usage for bad
    files."""
    import grpc

    files = _checked(address, tls)
    if files is None:
        return grpc.insecure_channel(address, _OPTIONS)
    return grpc.secure_channel(
        address, _credentials(files), [*_OPTIONS, *certificates.channel_options("master")]
    )


def open_aio_channel(address: str, tls: Tls) -> grpc.aio.Channel:
    """The same for coroutines."""
    import grpc.aio

    files = _checked(address, tls)
    if files is None:
        return grpc.aio.insecure_channel(address, _OPTIONS)
    options = [*_OPTIONS, *certificates.channel_options("master")]
    return grpc.aio.secure_channel(address, _credentials(files), options)


def why_unreachable(address: str, tls: Tls, timeout: float = 1.0) -> NotAllowed | None:
    """After a call has failed: whether certificates are the reason, which gRPC says only now and then.

    Speaks TLS itself. None when the server cannot be reached at all, or when nothing is wrong with TLS.
    """
    host, _, port = address.rpartition(":")
    files = _checked(address, tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        if files is not None:
            context.load_verify_locations(files.ca)
            context.load_cert_chain(files.cert, files.key)
            context.verify_mode = ssl.CERT_REQUIRED
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout) as raw,
            context.wrap_socket(raw, server_hostname=certificates.SERVER_NAME) as secure,
        ):
            if files is None:
                return NotAllowed(
                    f"{address} asks for a certificate",
                    next="name the folder with ca.pem, client.pem and client.key: MR_TLS__DIR, or [tls] dir",
                )
            secure.recv(1)  # a refused certificate is told only after the handshake (TLS 1.3)
    except ssl.SSLError as error:
        if files is not None:
            return NotAllowed(
                f"{address} and our certificate {files.cert} do not fit: {error.reason or error}",
                next="both must come from the same `mr tls init`",
            )
    except (OSError, ValueError):
        pass
    return None


def _checked(address: str, tls: Tls) -> certificates.TlsFiles | None:
    files = client_files(tls)
    if files is None and not is_loopback(address):
        raise NotAllowed(
            f"no certificate to talk to {address}: plaintext goes to this machine only",
            next="copy ca.pem, client.pem and client.key of the cluster (`mr tls init` makes them) to"
            f" {certificates.default_dir()}, or name them in [tls]",
        )
    return files


def _credentials(files: certificates.TlsFiles) -> grpc.ChannelCredentials:
    try:
        return certificates.channel_credentials(files)
    except certificates.TlsError as error:
        raise Usage(str(error)) from None


def _find(folder: Path) -> certificates.TlsFiles:
    try:
        return certificates.find(folder, "client")
    except certificates.TlsError as error:
        raise Usage(str(error)) from None


def _of(files: certificates.TlsFiles | None, name: str) -> Path:
    assert files is not None  # a single file is missing only when a folder is configured
    path: Path = getattr(files, name)
    return path
