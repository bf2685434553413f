"""Two directories change names in one step, where the system and the file system can do that."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# A file system that can't says EINVAL (NFS, most of FUSE), a kernel that can't ENOSYS, one that may not EPERM.
_CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})


def exchange(one: Path, other: Path) -> bool:
    """Whether it was done: afterwards each path names what the other one named, and there was no moment without either
    (renameat2, Linux 3.15). False where this can't be done. Raises OSError for everything else, FileNotFoundError if
    one of them is not there."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if not renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))
