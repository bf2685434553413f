"""`mr demo` and `mr examples`: something to see on a fresh install, with nothing prepared (S0-16)."""

from __future__ import annotations

import codecs
import contextlib
import io
import shutil
import tempfile
from importlib import resources
from pathlib import Path

import click

from mr import render
from mr.commands import flags
from mr.commands.flags import Session
from mr.errors import NotFound, Rejected

_JOB = '''"""Word count: the built-in job of `mr demo`."""

import re

import mr


@mr.mapper("demo.tokenize")
def tokenize(line: str):
    for word in re.findall(r"[a-z']+", line.lower()):
        yield word, 1


@mr.reducer("demo.add", combine=True)
def add(word: str, counts):
    yield word, sum(counts)


job = mr.Job("demo", [mr.step(tokenize, add, reduces=2)], input=mr.text(), output=mr.tsv())
'''


@click.command()
@flags.formatted
@flags.common
def demo(session: Session) -> int:
    """Counts the words of the Zen of Python: a whole job on this machine, with no cluster and no files."""
    from mr.local import Local

    with tempfile.TemporaryDirectory(prefix="mr-demo-") as folder:
        job, text = Path(folder, "wordcount.py"), Path(folder, "zen.txt")
        job.write_text(_JOB)
        text.write_text(_zen())
        session.note(f"this is the job:\n\n{_JOB}")
        result = Local().run(job, [text], processes=2)
        pairs = sorted(((int(n), word) for word, n in result.results()), key=lambda pair: (-pair[0], pair[1]))
    if session.machine:
        words = {word: count for count, word in pairs}
        print(render.line({"state": result.state, "seconds": round(result.seconds, 3), "words": words}))
    else:
        for count, word in pairs[:10]:
            print(f"{word}\t{count}")
        session.note(
            f"\n{len(pairs)} words, {result.attempts} tasks, {result.seconds:.1f} s;"
            " next: mr examples, or mr dev for a cluster"
        )
    return 0


@click.command()
@click.argument("name", required=False)
@flags.formatted
@flags.common
def examples(session: Session, *, name: str | None) -> int:
    """Lists the example jobs; with NAME copies that one into the current folder."""
    found = {path.name.removesuffix(".py"): path for path in _example_files()}
    if name is None:
        columns = [
            render.Column("NAME", lambda row: row[0]),
            render.Column("WHAT", lambda row: row[1]),
        ]
        rows = [(stem, _headline(path.read_text())) for stem, path in sorted(found.items())]
        render.rows(rows, columns, lambda row: {"name": row[0], "what": row[1]}, session.form)
        return 0
    wanted = found.get(name.removesuffix(".py"))
    if wanted is None:
        raise NotFound(f"no example {name!r}", next="`mr examples` lists them")
    target = Path(wanted.name)
    if target.exists():
        raise Rejected(
            f"{target} exists here already", code="OUTPUT_EXISTS", next="remove it, or copy elsewhere"
        )
    shutil.copyfile(wanted, target)
    print(target)
    return 0


def _example_files() -> list[Path]:
    """Job files of the package `examples`, which is found by name and never imported."""
    try:
        folder = Path(str(resources.files("examples")))
    except ModuleNotFoundError:
        return []
    return [path for path in folder.glob("*.py") if path.name not in {"__init__.py", "demo.py"}]


def _headline(source: str) -> str:
    import ast

    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _zen() -> str:
    with contextlib.redirect_stdout(io.StringIO()):  # importing it prints the text
        import this
    return codecs.decode(this.s, "rot13")
