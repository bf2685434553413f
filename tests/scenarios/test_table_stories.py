"""Long stories of the task table: tests/scenarios/table/*.txt. `pytest --rewrite` rewrites them."""

from __future__ import annotations

from pathlib import Path

import pytest

from master.task_table import TaskTable
from mr.rpc import table_pb2
from tests.scenarios import commands, story

STORIES = sorted((Path(__file__).parent / "table").glob("*.txt"))


class Teller:
    """A table, and a copy that is restored from a snapshot after every command: both must say the same (C6, C7)."""

    def __init__(self) -> None:
        self.table, self.copy = TaskTable(), TaskTable()
        self.index, self.term = 0, 1

    def __call__(self, text: str) -> list[str]:
        if text == "status":
            return commands.status(self.table)
        _, named = story.words(text)
        self.term = int(named.get("term", self.term))
        self.index += 1
        made = commands.command(self.table, text)
        entry = table_pb2.Entry(term=self.term, now_ms=self.index * 1000, commands=[made])
        results = self.table.apply(self.index, entry)
        assert self.copy.apply(self.index, entry) == results, f"the restored copy differs after {text}"
        self.table.check()
        saved = self.table.snapshot()()
        self.copy.restore(saved)
        assert self.copy.snapshot()() == saved
        return [event.text for event in results[0]]


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_story(path: Path, rewrite: bool) -> None:
    story.play(path, Teller(), rewrite=rewrite)
