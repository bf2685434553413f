"""The house rules that a linter cannot hold: sizes, banned calls in pure files, fresh generated code, reasons."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mr", "consensus", "master", "worker", "jepsen_like", "examples")
ROOT_FOLDERS = {*PACKAGES, "proto", "tests", "compose", ".ci", ".github", ".git"}
FILE_LINES = 400
FUNCTION_LINES = 60

# Files that decide. They see time, chance and the world only in what they are handed.
PURE = (
    "consensus/fence.py",
    "consensus/patience.py",
    "master/task_table.py",
    "master/columns.py",
    "master/scheduler.py",
    "master/leader.py",
    "master/leases.py",
    "master/stragglers.py",
    "master/views.py",
    "worker/agent.py",
    "worker/workload.py",
    "worker/gather.py",
    "worker/verdict.py",
    "worker/detector.py",
    "jepsen_like/checkers.py",
    "jepsen_like/nemesis.py",
    "mr/splits.py",
    "mr/codec.py",
    "mr/partition.py",
)
BANNED_MODULES = {
    "time": "take the time from the event or the command",
    "datetime": "take the time from the event or the command",
    "random": "take the choice from the caller (a seeded random.Random may be an argument)",
    "secrets": "take the id from the command",
    "uuid": "take the id from the command",
    "logging": "return an event or an action",
    "os": "this file has no machine",
    "socket": "this file has no network",
    "asyncio": "this file has no loop",
    "threading": "this file has no threads",
    "subprocess": "this file has no processes",
    "grpc": "this file has no network",
}
BANNED_CALLS = {"open", "print", "input"}
VAGUE = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common|base)\.py$")


def tracked(*suffixes: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    paths = [ROOT / name for name in listing if name and name.endswith(suffixes)]
    return [path for path in paths if path.is_file()]


def sources() -> list[Path]:
    """Our own Python, without tests and generated code."""
    names = [path for path in tracked(".py") if path.relative_to(ROOT).parts[0] in PACKAGES]
    return [path for path in names if "_pb2" not in path.name]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_root_holds_only_the_agreed_folders() -> None:
    top = {path.relative_to(ROOT).parts[0] for path in tracked("") if len(path.relative_to(ROOT).parts) > 1}
    assert top <= ROOT_FOLDERS


def test_every_file_has_one_subject_of_bounded_size() -> None:
    long = {label(path): len(path.read_text().splitlines()) for path in sources()}
    assert not {name: lines for name, lines in long.items() if lines > FILE_LINES}


def test_every_function_fits_on_a_screen() -> None:
    long = [
        f"{label(path)}:{node.lineno} {node.name} {node.end_lineno - node.lineno + 1}"
        for path in sources()
        for node in functions(ast.parse(path.read_text()))
        if node.end_lineno is not None and node.end_lineno - node.lineno >= FUNCTION_LINES
    ]
    assert not long


def test_every_module_opens_with_its_law() -> None:
    empty_ok = {path for path in sources() if path.name == "__init__.py" and not path.read_text().strip()}
    assert not [
        label(path)
        for path in sources()
        if path not in empty_ok and not ast.get_docstring(ast.parse(path.read_text()))
    ]


def test_no_file_is_named_for_nothing() -> None:
    assert not [label(path) for path in sources() if VAGUE.search(path.name)]


@pytest.mark.parametrize("name", PURE)
def test_what_decides_is_pure(name: str) -> None:
    path = ROOT / name
    assert path.exists(), f"{name} has moved: say so here"
    broken = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            broken += [alias.name for alias in node.names if alias.name.split(".")[0] in BANNED_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # a seeded generator may be an argument, so its type may be named
            if node.module == "random" and [alias.name for alias in node.names] == ["Random"]:
                continue
            broken += [node.module] if node.module.split(".")[0] in BANNED_MODULES else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BANNED_CALLS:
            broken.append(f"{node.func.id}() in line {node.lineno}")
    assert not broken, {
        name: BANNED_MODULES.get(name.split(".")[0], "this file acts on nothing") for name in broken
    }


def test_generated_code_is_fresh() -> None:
    check = subprocess.run(
        [sys.executable, ".ci/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr


def test_proto_is_the_only_thing_in_proto() -> None:
    assert not [
        label(path) for path in tracked("") if label(path).startswith("proto/") and path.suffix != ".proto"
    ]


def test_every_silenced_warning_says_why() -> None:
    bare = []
    for path in sources():
        with path.open("rb") as stream:
            for token in tokenize.tokenize(stream.readline):
                if token.type != tokenize.COMMENT:
                    continue
                mark = re.search(
                    r"#\s*(noqa(:\s*[A-Z0-9, ]+)?|type:\s*ignore(\[[^\]]*\])?)(.*)", token.string
                )
                if mark and len(mark.group(4).strip(" #-:")) < len("a reason"):
                    bare.append(f"{label(path)}:{token.start[0]} {token.string}")
    assert not bare


def test_no_commit_names_a_machine() -> None:
    """No absolute home of a checkout, no package index host, no lock file that holds one."""
    found = []
    for path in tracked(
        ".py", ".md", ".toml", ".txt", ".cfg", ".yaml", ".yml", ".sh", "Makefile", "run", ".proto"
    ):
        text = path.read_text(errors="replace")
        found += [
            label(path)
            for bad in (str(ROOT) + "/", "--index-" + "url", "--extra-index-" + "url")
            if bad in text
        ]
    assert not found


def test_nothing_is_left_for_later() -> None:
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    assert not [label(path) for path in sources() if mark.search(path.read_text())]
