"""The code bundle: the job file and what it needs, as one blob named by its SHA-256.

Deterministic: equal files give equal bytes, whoever builds it, whenever. The job file and its modules lie at
the top, as in their folder. Modules beside the job file that it imports, directly or through each other, are
taken along; what is imported under computed names needs `--py-files`. Data files come with `--files`.
Unpacking believes nothing: the digest first, then every name.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mr.errors import Cause, TaskFailure, Usage

MAX_BYTES = 256 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
# Python 3.11 keeps the depth of the tree that it builds in one place for all threads: two that parse at once may
# both be told "AST constructor recursion depth mismatch" (SystemError; CPython issue 106905).
_parsing = threading.Lock()
_IGNORED = {"__pycache__", ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


@dataclass(frozen=True, slots=True)
class Bundle:
    """`data` is the blob, `digest` its SHA-256, `job_file` the name inside, `names` everything inside."""

    data: bytes
    digest: bytes
    job_file: str
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many files are inside."""
        return len(self.names)

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return len(self.data)


class BundleError(TaskFailure):
    """A bundle that is not what its digest says, or that can't be unpacked."""

    def __init__(self, message: str) -> None:
        super().__init__(Cause.CODE_UNAVAILABLE, message)


def build(job_file: Path, py_files: Iterable[Path] = (), files: Iterable[Path] = ()) -> Bundle:
    """The bundle of a job file. A folder among `py_files` or `files` is taken whole. Raises mr.errors.Usage."""
    if not job_file.is_file():
        raise Usage(f"no job file {job_file}")
    contents: dict[str, Path] = {job_file.name: job_file}
    for extra in (*py_files, *files):
        if not extra.exists():
            raise Usage(f"no file {extra}, named with --py-files or --files")
        for name, path in _walk(extra):
            if contents.setdefault(name, path).resolve() != path.resolve():
                raise Usage(f"two files of the bundle have the name {name}: {contents[name]} and {path}")
    for name, path in siblings(job_file):
        contents.setdefault(name, path)
    if (size := sum(path.stat().st_size for path in contents.values())) > MAX_BYTES:
        raise Usage(
            f"the code bundle has {size >> 20} MiB, more than {MAX_BYTES >> 20}: data belongs into inputs"
        )
    data = _pack(contents)
    return Bundle(data, hashlib.sha256(data).digest(), job_file.name, tuple(sorted(contents)))


def _walk(path: Path) -> Iterator[tuple[str, Path]]:
    """(name in the bundle, path) of a file, or of all files below a folder."""
    if path.is_file():
        yield path.name, path
        return
    for inner in sorted(path.rglob("*")):
        relative = inner.relative_to(path.parent)
        if inner.is_file() and not _IGNORED.intersection(relative.parts) and inner.suffix != ".pyc":
            yield relative.as_posix(), inner


def _pack(contents: dict[str, Path]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # the same bytes on every system
            entry.compress_type = zipfile.ZIP_STORED  # a zlib of another version would give other bytes
            archive.writestr(entry, contents[name].read_bytes())
    return out.getvalue()


def siblings(job_file: Path) -> Iterator[tuple[str, Path]]:
    """(name in the bundle, path) of the modules in the job's folder that it imports, and they in turn."""
    folder = job_file.parent
    seen: set[str] = {job_file.stem}
    todo = [job_file]
    while todo:
        for module in sorted(_imports(todo.pop())):
            if module in seen:
                continue
            seen.add(module)
            found = folder / module
            if found.with_suffix(".py").is_file():
                parts = [(f"{module}.py", found.with_suffix(".py"))]
            elif (found / "__init__.py").is_file():
                parts = list(_walk(found))
            else:
                continue
            yield from parts
            todo += [path for _, path in parts if path.suffix == ".py"]


def _imports(path: Path) -> set[str]:
    """The top-level modules that a file's import statements name; none if it does not parse."""
    source = path.read_bytes()
    try:
        with _parsing:
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return set()  # loading it will say so with the line
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def unpack(data: bytes, digest: bytes, code_root: Path) -> Path:
    """Unpacks a bundle to code_root/<hex digest>/ and returns that folder; nothing to do if it is there.

    Appears whole or not at all; two processes may do it at once. Raises BundleError, OSError.
    """
    if hashlib.sha256(data).digest() != digest:
        raise BundleError(f"the code bundle is not what its digest {digest.hex()[:12]} says")
    target = code_root / digest.hex()
    if target.is_dir():
        return target
    code_root.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".unpack-", dir=code_root))
    try:
        _extract(data, aside)
        os.rename(aside, target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _extract(data: bytes, folder: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > 2 * MAX_BYTES:
                raise BundleError("the code bundle unpacks to more than it may")
            for entry in entries:
                name = PurePosixPath(entry.filename)
                if name.is_absolute() or ".." in name.parts or "\\" in entry.filename:
                    raise BundleError(f"the code bundle names a file outside itself: {entry.filename!r}")
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(entry))
    except zipfile.BadZipFile as error:
        raise BundleError(f"the code bundle can't be read: {error}") from None
    folder.chmod(0o755)
