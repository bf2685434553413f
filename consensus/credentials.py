"""gRPC credentials of a member, from its PEM files, and what a peer's certificate says about it.

Consensus imports nothing of `mr`, hence not `mr.tls`, which makes these certificates: common name = id of the
member, organizational unit = role, and for a server the name `ID.ROLE.mapraft`, which a link checks instead
of the address.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

import grpc
from cryptography import x509
from cryptography.x509.oid import NameOID

from consensus.config import ReplicaConfig, Tls
from consensus.handshake import Refused
from consensus.replica import RefusedToStart

log = logging.getLogger("mr.consensus")


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Lets in only who has a certificate of our CA; a renewed certificate serves the next handshake."""
    seen = _stamps(tls)
    first = _configuration(tls)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal seen
        stamps = _stamps(tls)
        if stamps == seen:
            return None  # keep what is in use
        try:
            configuration = _configuration(tls)
        except RefusedToStart:
            return None  # half of a renewal must not stop the server
        seen = stamps
        return configuration

    fetch: Any = renewed  # the stubs forget that None is a documented answer
    return grpc.dynamic_ssl_server_credentials(first, fetch, require_client_authentication=True)


def channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Of a new connection; reads the files anew. Raises RefusedToStart."""
    ca, cert, key = _files(tls)
    return grpc.ssl_channel_credentials(ca, key, cert)


def peer_certificate(auth_context: Mapping[str, Any]) -> tuple[str, str]:
    """(role, name) of the peer of a call. Raises Refused when its certificate does not say."""
    for pem in auth_context.get("x509_pem_cert", ()):
        subject = x509.load_pem_x509_certificate(pem).subject
        units = subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
        names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if len(units) == 1 and len(names) == 1:
            return str(units[0].value), str(names[0].value)
    raise Refused("its certificate does not say who it is of")


def _configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    ca, cert, key = _files(tls)
    return grpc.ssl_server_certificate_configuration([(key, cert)], ca)


def _files(tls: Tls) -> tuple[bytes, bytes, bytes]:
    try:
        return tls.ca.read_bytes(), tls.cert.read_bytes(), tls.key.read_bytes()
    except OSError as error:
        raise RefusedToStart(f"cannot read a certificate: {error}; make one with: mr tls init") from error


def _stamps(tls: Tls) -> tuple[Any, ...]:
    try:
        stats = [os.stat(path) for path in (tls.ca, tls.cert, tls.key)]
    except OSError:
        return ()
    return tuple((s.st_mtime_ns, s.st_ino, s.st_size) for s in stats)


def only_loopback(config: ReplicaConfig) -> None:
    """Plaintext proves nothing about a peer, so it may not leave this host. Raises RefusedToStart."""
    for address in (config.listen, *config.peers.values()):
        host = address.rpartition(":")[0].strip("[]")
        try:
            # No host means every address of this one.
            found = {info[4][0] for info in socket.getaddrinfo(host or "::", None)}
        except OSError as error:
            raise RefusedToStart(f"cannot resolve {host}: {error}") from error
        if not all(ipaddress.ip_address(str(one).partition("%")[0]).is_loopback for one in found):
            raise RefusedToStart(
                f"{address} is not on loopback, and --insecure is for loopback only;"
                " make certificates with: mr tls init"
            )
    log.warning("the masters of this cluster talk in plaintext: anyone on this host can take part")
