"""Fake masters, stopped after each test; an environment in which nothing of the machine's configuration counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.cli.fake import FakeMaster, Script


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("MR_") or name == "NO_COLOR":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def master() -> Iterator[Callable[..., FakeMaster]]:
    started: list[FakeMaster] = []

    def start(script: Script | None = None) -> FakeMaster:
        started.append(FakeMaster(script))
        return started[-1]

    yield start
    for one in started:
        one.stop()
