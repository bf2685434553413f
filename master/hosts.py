"""What this machine knows of names and addresses: which hosts are itself, which are loopback, which ports are
free.

Asked once, at start. Everything else works on the answers.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address

from mr.errors import Usage


def addresses(host: str) -> list[str]:
    """What `host` resolves to; empty when it does not."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return []
    return sorted({str(entry[4][0]) for entry in found})


def is_local(host: str) -> bool:
    """Whether `host` is an address of this machine: one that a socket can be bound to."""
    return any(_can_bind(address) for address in addresses(host))


def is_loopback(host: str) -> bool:
    """Whether `host` leads nowhere but to this machine. A name that does not resolve is not trusted to."""
    found = addresses(host)
    return bool(found) and all(ip_address(address.partition("%")[0]).is_loopback for address in found)


def listening_socket(host: str, port: int, *, next_free: bool) -> socket.socket:
    """A bound TCP socket; with `next_free` the first free port from `port` on. Raises Usage if there is
    none.
    """
    found = addresses(host)
    if not found:
        raise Usage(f"{host} is not an address of this host")
    family = socket.AF_INET6 if ":" in found[0] else socket.AF_INET
    for candidate in range(port, port + (100 if next_free and port else 1)):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((found[0], candidate))
            sock.listen(128)
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE or not next_free:
                raise Usage(f"cannot listen on {host}:{candidate}: {error.strerror}") from error
        else:
            return sock
    raise Usage(f"no free port from {host}:{port} on")


def _can_bind(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
        return True


def names_loopback(authority: str) -> bool:
    """Whether a Host header means this machine by a loopback address or as localhost; nothing is resolved."""
    host = authority.rpartition(":")[0] if authority.rpartition(":")[2].isdigit() else authority
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
