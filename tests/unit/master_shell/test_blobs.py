"""The blob store: what has a name is whole, on disk, and hashes to its name."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from master.blobs import CHUNK, BlobStore
from mr.errors import NotFound, Rejected, Unavailable, Usage


def store_in(folder: Path, limit: int = 1 << 20, each: int = 1 << 19, grace: float = 0.0) -> BlobStore:
    store = BlobStore(folder, limit_bytes=limit, each_bytes=each, grace_s=grace)
    store.open()
    return store


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and path.name != "lock"]


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def all_of(store: BlobStore, name: bytes, offset: int = 0) -> bytes:
    return b"".join([piece async for piece in store.read(name, offset)])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=5000), max_size=5), st.integers(0, 20_000))
async def test_what_is_put_is_read_back_from_any_offset(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], offset: int
) -> None:
    store = store_in(tmp_path_factory.mktemp("blobs"))
    data = b"".join(parts)
    await store.put(digest(data), pieces(*parts))
    assert await all_of(store, digest(data), offset) == data[offset:]
    assert await store.read_all(digest(data)) == data
    assert store.size(digest(data)) == len(data)


async def test_what_does_not_hash_to_its_name_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    with pytest.raises(Usage):
        await store.put(digest(b"good"), pieces(b"bad"))
    assert not store.has(digest(b"good"))
    assert files_in(tmp_path) == []
    assert store.total_bytes == 0


async def test_a_stream_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"go"
        raise ConnectionError

    store = store_in(tmp_path)
    with pytest.raises(ConnectionError):
        await store.put(digest(b"good"), broken())
    assert store.digests() == set()
    assert store.total_bytes == 0
    assert files_in(tmp_path) == []


async def test_limits_hold_for_one_and_for_all(tmp_path: Path) -> None:
    store = store_in(tmp_path, limit=100, each=80)
    with pytest.raises(Rejected, match="may have"):
        await store.put(digest(b"x" * 81), pieces(b"x" * 81))
    await store.put(digest(b"x" * 80), pieces(b"x" * 80))
    with pytest.raises(Rejected, match="full"):
        await store.put(digest(b"y" * 21), pieces(b"y" * 21))
    assert store.total_bytes == 80


async def test_a_restart_finds_the_whole_ones_and_sweeps_the_rest(tmp_path: Path) -> None:
    first = store_in(tmp_path)
    await first.put_bytes(b"kept")
    with pytest.raises(Usage, match="another master"):  # FC25
        store_in(tmp_path)
    first.close()
    (tmp_path / "aside" / "left").write_bytes(b"half of somethi")
    again = store_in(tmp_path)
    assert again.digests() == {digest(b"kept")}
    assert list((tmp_path / "aside").iterdir()) == []


async def test_a_flipped_bit_is_found_and_the_blob_forgotten(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    name = await store.put_bytes(b"x" * (CHUNK // 4))
    path = store.path(name)
    path.write_bytes(b"y" + path.read_bytes()[1:])
    with pytest.raises(NotFound, match="damaged"):
        await store.read_all(name)
    assert not store.has(name)


async def test_the_sweep_spares_what_is_named_and_what_is_young(tmp_path: Path) -> None:
    store = store_in(tmp_path, grace=50.0)
    named, unnamed = await store.put_bytes(b"named"), await store.put_bytes(b"unnamed")
    written = store.path(unnamed).stat().st_mtime
    assert store.sweep({named}, now=written + 49) == []
    assert store.sweep({named}, now=written + 51) == [unnamed]
    assert store.digests() == {named}


async def test_a_disk_that_cannot_be_written_is_told_and_nothing_is_claimed(tmp_path: Path) -> None:
    """FC17: the server ends with 75."""
    told: list[OSError] = []
    store = BlobStore(tmp_path, limit_bytes=1 << 20, each_bytes=1 << 20, failed=told.append)
    store.open()
    (tmp_path / "aside").rmdir()
    with pytest.raises(Unavailable):
        await store.put(digest(b"x"), pieces(b"x"))
    assert len(told) == 1
    assert not store.has(digest(b"x"))


def _read_only(*_args: object, **_named: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


# What is done, and the call that the disk refuses meanwhile; nothing can be removed either.
MOMENTS: dict[str, tuple[Callable[[BlobStore, bytes], Awaitable[object]], object, str]] = {
    "a file is made": (lambda store, _: store.put(digest(b"x"), pieces(b"x")), Path, "open"),
    "its grace starts again": (lambda store, name: store.touch(name), os, "utime"),
    "it is read": (lambda store, name: store.read_all(name), Path, "read_bytes"),
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_disk_that_turns_read_only_is_told_by_whatever_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """FC18: the client is sent to another master, never told of an internal error."""
    act, owner, call = MOMENTS[moment]
    told: list[OSError] = []
    store = BlobStore(tmp_path, limit_bytes=1 << 20, each_bytes=1 << 20, failed=told.append)
    store.open()
    name = await store.put_bytes(b"before")
    with monkeypatch.context() as fails:
        fails.setattr(Path, "unlink", _read_only)
        fails.setattr(owner, call, _read_only)
        with pytest.raises(Unavailable, match="Read-only"):
            await act(store, name)
    assert len(told) == 1


async def test_a_write_that_fails_half_way_is_told_though_nothing_can_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[OSError] = []
    store = BlobStore(tmp_path, limit_bytes=1 << 20, each_bytes=1 << 20, failed=told.append)
    store.open()
    with monkeypatch.context() as fails:
        fails.setattr(os, "fsync", _read_only)
        fails.setattr(Path, "unlink", _read_only)
        with pytest.raises(Unavailable, match="Read-only"):
            await store.put(digest(b"x"), pieces(b"x"))
    assert len(told) == 1
    assert not store.has(digest(b"x"))


async def test_a_blob_that_somebody_removed_is_no_failure_of_the_disk(tmp_path: Path) -> None:
    told: list[OSError] = []
    store = BlobStore(tmp_path, limit_bytes=1 << 20, each_bytes=1 << 20, failed=told.append)
    store.open()
    for ask in (store.touch, store.read_all):
        name = await store.put_bytes(b"removed")
        store.path(name).unlink()
        if ask is store.touch:
            assert not await store.touch(name), "so it is stored again"
        else:
            with pytest.raises(NotFound):
                await store.read_all(name)
        assert not store.has(name)
    assert not told
