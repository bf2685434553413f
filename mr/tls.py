"""Who is who on the network: a small private CA, one certificate per process, and gRPC credentials made of
them.

The law: a certificate says who its holder is by common name (the id) and organizational unit (the role:
master, worker or client), and nothing else is believed about a peer. Addresses prove nothing, so that a
process may move to another host: every server certificate carries three names of our own besides the host
names, and a channel checks one of them instead of the address: `mapraft` (any server of this cluster),
`ROLE.mapraft`, `ID.ROLE.mapraft`.

Files are read again when they change: a renewed certificate serves the next handshake without a restart. Only
a new CA needs one. Imports grpc and cryptography when they are needed, so that the command line stays light
(S0-21, S1, S2).
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

SERVER_NAME = "mapraft"
ROLES = ("master", "worker", "client")
CA_DAYS = 3650
LEAF_DAYS = 825  # what TLS libraries still accept as a server's lifetime
# Certificates are valid from two days ago, so that a host whose clock is a day off is still let in (FT20).
BACKDATE = datetime.timedelta(days=2)

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class TlsError(Exception):
    """Certificates are missing or unusable. The text says what to do."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The three PEM files that one process needs."""

    ca: Path
    cert: Path
    key: Path


def default_dir() -> Path:
    """Where servers and clients look for certificates when nobody tells them: `$XDG_CONFIG_HOME/mr/tls`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "mr" / "tls"


def find(directory: Path, role: str, name: str | None = None) -> TlsFiles:
    """The files of `role` in `directory`: those of `name` if there are any, else the role's common ones.

    Raises TlsError, naming the command that makes them.
    """
    stems = [f"{role}-{name}", role] if name else [role]
    for stem in stems:
        files = TlsFiles(directory / "ca.pem", directory / f"{stem}.pem", directory / f"{stem}.key")
        if all(path.is_file() for path in (files.ca, files.cert, files.key)):
            return files
    option = f" --{role} {name}" if name and role != "client" else ""
    raise TlsError(
        f"no certificate for {role}{' ' + name if name else ''} in {directory} (looked for"
        f" {' and '.join(stem + '.pem' for stem in stems)}, each with its .key, and ca.pem);"
        f" make one with: mr tls init --dir {directory}{option}"
    )


def only_name(directory: Path, role: str) -> str | None:
    """The name for which alone `directory` has a certificate of `role`: that of the host it was made for.

    None where there are none or several, or a common one that any name may use.
    """
    if (directory / f"{role}.pem").is_file():
        return None
    names = [path.stem.removeprefix(f"{role}-") for path in directory.glob(f"{role}-*.pem")]
    return names[0] if len(names) == 1 else None


def init(
    directory: Path,
    hosts: Iterable[str] = (),
    *,
    masters: Iterable[str] = ("a", "b", "c"),
    workers: Iterable[str] = ("worker",),
    clients: Iterable[str] = ("client",),
) -> list[Path]:
    """Makes a CA and certificates in `directory` (0700; keys 0600). Keeps what exists. Returns what it wrote.

    `hosts` are names and addresses under which servers are reached; localhost is always among them. A worker
    or client called by its role's own name gets the common files of the role, `worker.pem`. Raises TlsError.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    written: list[Path] = []
    if not (directory / "ca.pem").exists():
        written += _make_ca(directory)
    hosts = list(hosts)
    for role, names in (("master", masters), ("worker", workers), ("client", clients)):
        for name in names:
            stem = role if name == role else f"{role}-{name}"
            if not (directory / f"{stem}.pem").exists():
                written += issue(directory, role, name, hosts, stem=stem)
    return written


def issue(
    directory: Path,
    role: str,
    name: str,
    hosts: Iterable[str] = (),
    *,
    stem: str = "",
    days: float = LEAF_DAYS,
) -> list[Path]:
    """Writes a certificate of `name` signed by the CA in `directory`; overwrites. Raises TlsError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    if role not in ROLES or not _NAME.fullmatch(name):
        raise TlsError(
            f"{name!r} cannot be the name of a {role}: letters, digits, dots and dashes, at most 63 of them"
        )
    try:
        ca = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
        ca_key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
    except (OSError, ValueError) as error:
        raise TlsError(f"cannot sign with the CA in {directory}: {error}") from error
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TlsError(f"the key of the CA in {directory} is not an elliptic curve key")
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if role != "client":
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    key = _new_key()
    builder = (
        _builder(_subject(name, role), ca.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_names(role, name, hosts), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )
    certificate = builder.sign(ca_key, hashes.SHA256())
    return _write(directory, stem or f"{role}-{name}", certificate, key)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials of a server that lets in only holders of a certificate of this CA. Raises TlsError."""
    import grpc

    reader = _Reader(files)

    def load() -> grpc.ServerCertificateConfiguration:
        ca, cert, key = reader.read()
        return grpc.ssl_server_certificate_configuration([(key, cert)], ca)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        # Called at every handshake; None keeps what is in use. A half-written renewal must not stop the
        # server.
        try:
            return load() if reader.changed() else None
        except TlsError:
            return None

    fetch: Any = renewed  # the stubs forget that None is a documented answer
    return grpc.dynamic_ssl_server_credentials(load(), fetch, require_client_authentication=True)


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Credentials of a client; a new channel reads the files anew. Raises TlsError."""
    import grpc

    ca, cert, key = _Reader(files).read()
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)


def channel_options(role: str = "", name: str = "") -> list[tuple[str, str]]:
    """Options of a secure channel: its server must be of this cluster, of `role` and be `name`, if given."""
    return [("grpc.ssl_target_name_override", ".".join(part for part in (name, role, SERVER_NAME) if part))]


def peer_role(auth_context: Mapping[str, Iterable[bytes]]) -> tuple[str, str] | None:
    """(role, name) of the peer of a gRPC call by its verified certificate; None without one (plaintext)."""
    for pem in auth_context.get("x509_pem_cert", ()):
        return certificate_role(pem)
    return None


def certificate_role(pem: bytes) -> tuple[str, str] | None:
    """(role, name) that a PEM certificate states; None if it states no role of ours."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    subject = x509.load_pem_x509_certificate(pem).subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    units = subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    if len(names) != 1 or len(units) != 1 or units[0].value not in ROLES:
        return None
    return str(units[0].value), str(names[0].value)


class _Reader:
    """Reads the three files and notices when one of them was replaced."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen: tuple[Any, ...] = ()

    def read(self) -> tuple[bytes, bytes, bytes]:
        self._seen = self._stamps()
        try:
            return self._files.ca.read_bytes(), self._files.cert.read_bytes(), self._files.key.read_bytes()
        except OSError as error:
            raise TlsError(f"cannot read a certificate: {error}; make one with: mr tls init") from error

    def changed(self) -> bool:
        return self._stamps() != self._seen

    def _stamps(self) -> tuple[Any, ...]:
        try:
            stats = [os.stat(path) for path in (self._files.ca, self._files.cert, self._files.key)]
        except OSError:
            return ()
        return tuple((s.st_mtime_ns, s.st_ino, s.st_size) for s in stats)


def _make_ca(directory: Path) -> list[Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    key = _new_key()
    subject = _subject(f"{SERVER_NAME} CA {os.urandom(4).hex()}", "")
    certificate = (
        _builder(subject, subject, key, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_ca_usage(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _write(directory, "ca", certificate, key)


def _ca_usage() -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        key_cert_sign=True,
        crl_sign=True,
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _subject(name: str, role: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    unit = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role)] if role else []
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, SERVER_NAME),
            *unit,
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _names(role: str, name: str, hosts: Iterable[str]) -> x509.SubjectAlternativeName:
    from cryptography import x509

    ours: list[x509.GeneralName] = [x509.DNSName(f"{name}.{role}.{SERVER_NAME}")]
    if role == "client":
        return x509.SubjectAlternativeName(ours)
    ours += [x509.DNSName(SERVER_NAME), x509.DNSName(f"{role}.{SERVER_NAME}")]
    for host in dict.fromkeys(("localhost", "127.0.0.1", "::1", *hosts)):
        ours.append(_host_name(host))
    return x509.SubjectAlternativeName(ours)


def _host_name(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise TlsError(f"{host!r} is neither a host name nor an address") from error


def _new_key() -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _write(
    directory: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> list[Path]:
    from cryptography.hazmat.primitives import serialization

    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    parts: Sequence[tuple[str, bytes, int]] = (
        ("key", secret, 0o600),
        ("pem", certificate.public_bytes(pem), 0o644),
    )
    written = []
    for suffix, content, mode in parts:
        path = directory / f"{stem}.{suffix}"
        aside = directory / f".{stem}.{suffix}.{os.getpid()}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        aside.replace(path)
        written.append(path)
    return written
