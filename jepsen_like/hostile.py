"""What user code may do to the machine that runs it, and how its job must end then (FT16).

The text of this file is a part of hostile jobs: it stands behind that of `tasks`. Nothing here happens outside a task.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Any

# deed -> how the job ends, the causes that tell the truth, a word that its message must hold
ENDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "exit": ("FAILED", ("USER_EXIT",), ""),
    "exit-3": ("FAILED", ("USER_EXIT",), "3"),
    "abort": ("FAILED", ("NATIVE_SIGNAL",), "SIGABRT"),
    "segfault": ("FAILED", ("NATIVE_SIGNAL",), "SIGSEGV"),
    "forever": ("FAILED", ("TASK_TIMEOUT",), "deadline"),
    "bomb": ("FAILED", ("OUT_OF_MEMORY", "USER_EXCEPTION"), "emory"),
    "fat": ("SUCCEEDED", (), ""),
    "orphans": ("SUCCEEDED", (), ""),
    "babble": ("SUCCEEDED", (), ""),
    "close-fds": ("FAILED", ("USER_EXIT",), ""),
    "chdir": ("SUCCEEDED", (), ""),
    "kill-parent": ("FAILED", ("USER_EXIT", "NATIVE_SIGNAL"), ""),
    "kill-group": ("FAILED", ("NATIVE_SIGNAL",), "SIGKILL"),
    "modules": ("FAILED", ("USER_EXCEPTION",), ""),
}
ATTEMPTS = 2  # so that its jobs end soon
_MIB = 1 << 20


def flags(deed: str) -> dict[str, Any]:
    """What its jobs are submitted with. A deadline only for what needs one: a busy machine makes others late, too."""
    deadline = {"task_deadline": "4s"} if deed == "forever" else {}
    return {"max_attempts": ATTEMPTS, "memory": "256MiB", **deadline}


def strike(deed: str) -> None:
    """Does it."""
    if deed == "exit":
        sys.exit(0)
    if deed == "exit-3":
        os._exit(3)
    if deed == "abort":
        os.abort()
    if deed == "segfault":
        ctypes.string_at(0)
    if deed == "forever":
        while True:
            pass
    if deed in {"bomb", "fat"}:
        _take(40 if deed == "fat" else 900)
    if deed == "orphans":
        _leave_children()
    if deed == "babble":
        for _ in range(400):
            os.write(1, b"x" * 65_536)
            sys.stderr.write("y" * 1000 + "\n")
    if deed == "close-fds":
        os.closerange(0, 1000)
    if deed == "chdir":
        os.chdir("/")
    if deed == "kill-parent":
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(9)  # the parent may be beyond its reach
    if deed == "kill-group":
        os.killpg(0, signal.SIGKILL)
    if deed == "modules":
        for name in list(sys.modules):
            if name.startswith("mr."):
                sys.modules[name] = None  # type: ignore[assignment]  # that is the deed
        raise ValueError("the modules are gone")


def _take(mib: int) -> None:
    """Memory, and uses it, not faster than anybody could watch."""
    held = []
    for _ in range(mib // 10):
        held.append(b"\1" * (10 * _MIB))
        time.sleep(0.01)
    time.sleep(0 if mib < 100 else 600)  # until somebody sees it


def _leave_children() -> None:
    """Processes that nobody waits for, one of them beyond its own session and parent."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(["sleep", "1000"], **quiet)  # type: ignore[call-overload]  # these are its arguments
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
