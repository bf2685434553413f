"""Stands between a worker and one task process, so that nothing user code does reaches the worker.

    python -I -S keeper.py STATUS_FD CONTROL_FD ISOLATION HIDDEN -- PROGRAM ARGUMENTS...

It starts PROGRAM in a session of its own and says on STATUS_FD how that ended ("exit 3", "signal 11"), once,
after every process that it left behind is dead. It ends PROGRAM with all its descendants when CONTROL_FD
closes, which the worker's own death brings about, too. The parent that user code can kill is this process,
not the worker; orphans of user code become its children, so a tree cannot be escaped by forking twice.

ISOLATION "namespaces": PROGRAM gets a process and a mount namespace. It sees and can signal nobody else,
files and folders in HIDDEN (separated by ":", the worker's keys) look empty, and the kernel itself kills
everything in it, fork bombs included. "none": nothing is hidden, and the end of a tree comes by walking it,
which a fork bomb outruns: the kernel's limit of processes of a user stops it, which does not hold for root.

Runs as a plain script on the standard library alone, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWUSER = 0x10000000
MS_BIND = 0x1000
MS_REC_SLAVE = 0x4000 | 0x80000
MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
OPEN_FILES = 4096
PROCESSES = 4096  # of this user, all together; beyond them fork fails
NAMESPACE_PROCESSES = 1024
# Tasks give way: a worker must serve its peers and answer its leader while they compute.
NICENESS = 5
PR_CAPBSET_DROP = 24
# What root's user code would need to look out of its namespaces, or to harm the machine: SYS_MODULE,
# SYS_RAWIO, SYS_PTRACE, SYS_ADMIN, SYS_BOOT, SYS_TIME.
DROPPED_CAPABILITIES = (16, 17, 19, 21, 22, 25)

_libc = ctypes.CDLL(None, use_errno=True)


def enter_namespaces() -> None:
    """The next child is process 1 of a new process namespace. Raises OSError where that is not allowed."""
    uid, gid = os.getuid(), os.getgid()
    flags = CLONE_NEWPID | CLONE_NEWNS
    if _libc.unshare(flags) != 0:
        if _libc.unshare(flags | CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        for path, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{path}", "w") as file:
                file.write(line)


def mount(source: bytes, target: str, kind: bytes, flags: int, data: bytes | None = None) -> None:
    """mount(2). Raises OSError."""
    if _libc.mount(source, os.fsencode(target), kind, flags, data) != 0:
        raise OSError(ctypes.get_errno(), "mount", target)


def arrange_mounts(hidden: list[str]) -> None:
    """A /proc that shows this namespace only; nothing in hidden files and folders. Raises OSError."""
    # Slave, not private: a share that the host mounts later, as automounters do, must be seen by a task process too.
    mount(b"none", "/", b"none", MS_REC_SLAVE)
    mount(b"proc", "/proc", b"proc", MS_NOSUID_NODEV_NOEXEC)
    for path in hidden:
        if os.path.isdir(path):
            mount(b"none", path, b"tmpfs", MS_NOSUID_NODEV_NOEXEC, b"size=64k,mode=700")
        elif os.path.exists(path):
            mount(b"/dev/null", path, b"none", MS_BIND)


def limit_namespace() -> None:
    """At most so many processes here, where the kernel counts them by namespace (Linux 6.14)."""
    major, minor = os.uname().release.split(".")[:2]
    if (int(major), int(minor)) >= (6, 14):  # an older one would limit the whole machine
        with contextlib.suppress(OSError), open("/proc/sys/kernel/pid_max", "w") as file:
            file.write(str(NAMESPACE_PROCESSES))


def die_with_parent(parent: int) -> None:
    """SIGKILL for this process when its parent ends, also if it has ended already."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(127)


def run_program(arguments: list[str], parent: int) -> None:
    """Becomes PROGRAM. Never returns."""
    try:
        die_with_parent(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold other people's data (S5)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        limit = PROCESSES if hard == resource.RLIM_INFINITY else min(PROCESSES, hard)
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("900")  # when memory runs out, a task dies and not its worker (FT17)
        for capability in DROPPED_CAPABILITIES:
            _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.nice(NICENESS)
        os.setsid()
        os.execvp(arguments[0], arguments)  # noqa: S606 - no shell is the point
    except OSError as error:
        os.write(2, f"cannot start {arguments[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def descendants(root: int) -> list[int]:
    """Every living process below `root`, in no order; zombies are not among them."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
            except (OSError, ValueError):
                continue
            if state != "Z":
                children.setdefault(int(parent), []).append(int(name))
    found = list(children.get(root, ()))
    for pid in found:
        found += children.get(pid, ())
    return found


def kill_descendants() -> None:
    """Kills everything below this process, which is the subreaper: what is left becomes a child of it."""
    while pids := descendants(os.getpid()):
        for sign in (signal.SIGSTOP, signal.SIGKILL):  # all stand still first: a fork bomb outruns a walk
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sign)
        reap()


def reap() -> dict[int, int]:
    """Collects every dead child: pid -> wait status."""
    dead: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return dead
        if pid == 0:
            return dead
        dead[pid] = status


def watch(program: int, wake: int, control: int) -> int | None:
    """Waits until PROGRAM ends (its wait status) or the worker is gone or wants it ended (None)."""
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    if control >= 0:
        poll.register(control, select.POLLIN)
    while True:
        dead = reap()
        if program in dead:
            return dead[program]
        for fd, _ in poll.poll():
            if fd == control:
                return None
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)


def wake_on_child() -> int:
    """A descriptor that becomes readable when a child ends."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def keep(arguments: list[str], status_fd: int, control: int) -> None:
    """Starts PROGRAM below this process, waits, kills what is left, says how PROGRAM ended."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, me = wake_on_child(), os.getpid()
    program = os.fork()
    if program == 0:
        for fd in (status_fd, control):
            if fd >= 0:
                os.close(fd)
        run_program(arguments, me)
    status = watch(program, wake, control)
    kill_descendants()
    if status is not None:
        code = os.waitstatus_to_exitcode(status)
        os.write(status_fd, f"exit {code}\n".encode() if code >= 0 else f"signal {-code}\n".encode())


def main() -> None:
    """See the module."""
    status_fd, control = int(sys.argv[1]), int(sys.argv[2])
    isolation, hidden, arguments = sys.argv[3], sys.argv[4], sys.argv[6:]
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(sign, signal.SIG_IGN)  # the worker decides when a task ends
    if isolation == "none":
        keep(arguments, status_fd, control)
        return
    enter_namespaces()
    wake = wake_on_child()
    init = os.fork()
    if init == 0:
        die_with_parent(0)  # a parent outside the namespace is number 0
        os.close(control)
        arrange_mounts([path for path in hidden.split(":") if path])
        limit_namespace()
        keep(arguments, status_fd, -1)
        os._exit(0)
    if watch(init, wake, control) is None:
        os.kill(init, signal.SIGKILL)  # and the kernel kills its whole namespace
        os.waitpid(init, 0)


if __name__ == "__main__":
    main()
