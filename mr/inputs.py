"""Finds input files and opens them. What a user typed becomes a sorted listing; a piece becomes a byte stream.

A pattern is a file, a glob, a directory (walked; names that begin with "." and `_SUCCESS` are skipped), or
`@list`, a file with one pattern a line. A file that several patterns name is read once. Files are opened only if
their size and modification time are still as listed, and looked at again when they end (INPUT_CHANGED, D8).
"""

from __future__ import annotations

import bz2
import difflib
import glob
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from mr.causes import Cause
from mr.errors import TaskFailure
from mr.splits import FileInfo

if TYPE_CHECKING:
    from mr.rpc.job_pb2 import Piece

_LIST_DEPTH = 8  # of @lists that name @lists


class InputError(TaskFailure):
    """An input that is missing, unreadable or changed. `path` names it, `hint` says what may have been meant."""

    def __init__(self, cause: Cause, path: str, message: str, hint: str = "") -> None:
        super().__init__(cause, f"{message}: {path}" + (f" ({hint})" if hint else ""), input=path)
        self.path = path
        self.hint = hint


# --- listing ---


def list_inputs(patterns: Iterable[str]) -> list[FileInfo]:
    """Every file that `patterns` name, by absolute path, sorted by path, each once. Raises InputError."""
    found: dict[str, FileInfo] = {}
    for pattern in patterns:
        for info in _expand(pattern, depth=0):
            found[info.path] = info
    return [found[path] for path in sorted(found)]


def _expand(pattern: str, depth: int) -> Iterator[FileInfo]:
    if pattern.startswith("@"):
        if depth >= _LIST_DEPTH:
            raise InputError(Cause.INPUT_UNREADABLE, pattern[1:], "input lists name each other without end")
        yield from _from_list(pattern[1:], depth)
        return
    path = os.path.abspath(os.path.expanduser(pattern))
    try:
        status = os.stat(path)
    except OSError as error:
        if glob.has_magic(pattern) and isinstance(error, FileNotFoundError):
            yield from _from_glob(pattern, path)
            return
        raise _missing(pattern, path, error) from None
    yield from _from_path(path, status)


def _from_path(path: str, status: os.stat_result) -> Iterator[FileInfo]:
    if stat.S_ISDIR(status.st_mode):
        yield from _walk(path)
    elif stat.S_ISREG(status.st_mode):
        if not os.access(path, os.R_OK):
            raise InputError(Cause.INPUT_UNREADABLE, path, "no permission to read this input")
        yield FileInfo(path, status.st_size, status.st_mtime_ns)
    else:
        raise InputError(Cause.INPUT_UNREADABLE, path, "this input is neither a file nor a directory")


def _from_glob(pattern: str, path: str) -> Iterator[FileInfo]:
    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        raise InputError(Cause.INPUT_MISSING, pattern, "no file matches", "quote a pattern for the shell?")
    for match in matches:
        if _hidden(os.path.basename(match)):
            continue
        yield from _from_path(match, os.stat(match))


def _from_list(path: str, depth: int) -> Iterator[FileInfo]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        raise _missing(path, os.path.abspath(path), error) from None
    except UnicodeDecodeError:
        raise InputError(Cause.INPUT_UNREADABLE, path, "this list of inputs is not text") from None
    for line in lines:
        if line and not line.startswith("#"):
            yield from _expand(line, depth + 1)


def _walk(root: str) -> Iterator[FileInfo]:
    try:
        with os.scandir(root) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if _hidden(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from _walk(entry.path)
                elif entry.is_file():
                    status = entry.stat()
                    yield FileInfo(entry.path, status.st_size, status.st_mtime_ns)
    except PermissionError:
        raise InputError(Cause.INPUT_UNREADABLE, root, "no permission to list this directory") from None


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "_SUCCESS"


def _missing(pattern: str, path: str, error: OSError) -> InputError:
    if isinstance(error, PermissionError):
        return InputError(Cause.INPUT_UNREADABLE, pattern, "no permission to read this input")
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return InputError(Cause.INPUT_UNREADABLE, pattern, f"can't read this input: {error.strerror}")
    parent = os.path.dirname(path)
    while parent != "/" and not os.path.isdir(parent):
        path, parent = parent, os.path.dirname(parent)
    try:
        near = difflib.get_close_matches(os.path.basename(path), os.listdir(parent), n=1)
    except OSError:
        near = []
    hint = f"did you mean {os.path.join(parent, near[0])}?" if near else f"nothing like it in {parent}"
    return InputError(Cause.INPUT_MISSING, pattern, "no such input", hint)


# --- opening ---


@contextmanager
def open_piece(piece: Piece) -> Iterator[BinaryIO]:
    """The bytes of the piece's file, decompressed, from its beginning; seekable when it is not compressed.

    Raises InputError: INPUT_MISSING, INPUT_CHANGED when it is not as listed (checked again at the end), and
    INPUT_UNREADABLE for anything else that goes wrong while the stream is read, as a truncated archive.
    """
    try:
        with open(piece.path, "rb", buffering=0) as file:
            _check_unchanged(piece, os.fstat(file.fileno()))
            with _decompressed(piece, file) as stream:
                yield stream
            _check_unchanged(piece, os.fstat(file.fileno()))
    except FileNotFoundError as error:
        raise InputError(
            Cause.INPUT_MISSING, piece.path, "the input is gone, or this host does not see it"
        ) from error
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise InputError(Cause.INPUT_UNREADABLE, piece.path, _why(piece, error)) from error


def changed(piece: Piece, what: str) -> InputError:
    """The error for a file that is not what was listed."""
    return InputError(Cause.INPUT_CHANGED, piece.path, f"the input changed while the job ran: {what}")


def _check_unchanged(piece: Piece, status: os.stat_result) -> None:
    if not piece.mtime_ns:
        return  # written by the job itself: checksums tell
    if status.st_size != piece.size:
        raise changed(piece, f"{piece.size} bytes when listed, now {status.st_size}")
    if status.st_mtime_ns != piece.mtime_ns:
        raise changed(piece, "it was written to since it was listed")


def _why(piece: Piece, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return f"can't read the input: {error.strerror}"
    if isinstance(error, EOFError):
        return f"the {piece.codec} input is truncated"
    return f"the {piece.codec} input is damaged ({error})"


@contextmanager
def _decompressed(piece: Piece, file: io.FileIO) -> Iterator[BinaryIO]:
    match piece.codec:
        case "":
            yield cast("BinaryIO", file)
        case "gz":
            with gzip.GzipFile(fileobj=file, mode="rb") as stream:
                yield cast("BinaryIO", stream)
        case "bz2":
            with bz2.BZ2File(file, "rb") as stream:
                yield cast("BinaryIO", stream)
        case "xz":
            with lzma.LZMAFile(file, "rb") as stream:
                yield cast("BinaryIO", stream)
        case "zst":
            yield cast("BinaryIO", io.BufferedReader(_Zstd(file), 128 << 10))
        case codec:
            raise InputError(Cause.INPUT_UNREADABLE, piece.path, f"unknown compression {codec!r}")


class _Zstd(io.RawIOBase):
    """Zstandard frames one behind the other. The library's own reader takes a truncated file for a short one."""

    def __init__(self, file: io.FileIO) -> None:
        import zstandard

        self._file = file
        self._library = zstandard
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._within = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's stubs name a wider type
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._within = self._library.ZstdDecompressor().decompressobj(), False
            data = data or self._file.read(64 << 10) or b""
            if not data:
                if self._within:
                    raise EOFError
                return 0
            self._within = True
            try:
                self._ready = self._frame.decompress(data)
            except self._library.ZstdError as error:
                raise OSError(str(error)) from None
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size
