"""Stories as text files: commands, `----`, what they gave. Replayed, compared, rewritten on request.

A file opens with `#` lines that say what it promises. Blocks are parted by an empty line; a block's output ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "----"


@dataclass
class Block:
    """Some commands and what they are to give; a comment has no commands."""

    commands: list[str]
    expected: list[str]
    comment: list[str]


def read(path: Path) -> Iterator[Block]:
    for chunk in path.read_text().strip("\n").split("\n\n"):
        lines = chunk.split("\n")
        comment = [line for line in lines if line.startswith("#")]
        rest = [line for line in lines if not line.startswith("#")]
        at = rest.index(MARK) if MARK in rest else len(rest)
        yield Block(rest[:at], rest[at + 1 :], comment)


def play(path: Path, run: Callable[[str], list[str]], *, rewrite: bool) -> None:
    """Runs every command by `run`, which returns lines. AssertionError when they are not those of the file."""
    chunks = []
    for block in read(path):
        given = [line for command in block.commands for line in run(command)]
        chunks.append(
            "\n".join([*block.comment, *block.commands, *([MARK] if block.commands else []), *given])
        )
        if not rewrite:
            assert given == block.expected, f"{path.name}: after {block.commands}"
    if rewrite:
        path.write_text("\n\n".join(chunks) + "\n")


def words(command: str) -> tuple[list[str], dict[str, str]]:
    """Plain words and `name=value` ones."""
    plain, named = [], {}
    for word in command.split():
        name, equals, value = word.partition("=")
        if equals:
            named[name] = value
        else:
            plain.append(word)
    return plain, named
