"""Every example does what its docstring shows, and the same bytes as the independent interpreter (S0-01, S4-05..09)."""

import json
import re
import textwrap
from pathlib import Path

import pytest

import mr
from mr import loader
from tests.reference import reference

EXAMPLES = Path(__file__).parents[3] / "examples"
JOBS = [
    "wordcount",
    "grep",
    "url_count",
    "reverse_links",
    "term_vector",
    "inverted_index",
    "minmax_temperature",
]


def shown(name: str) -> dict[str, str]:
    """The blocks "input", "output" and the line "arguments" of an example's docstring."""
    doc = (EXAMPLES / f"{name}.py").read_text().split('"""')[1]
    blocks = {
        head: textwrap.dedent(body)
        for head, body in re.findall(r"^(input|output):\n((?:    .*\n)+)", doc, re.MULTILINE)
    }
    return blocks | dict(re.findall(r"^(arguments): (.*)$", doc, re.MULTILINE))


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("processes", [0, 2], ids=["inline", "processes"])
def test_an_example_does_what_its_docstring_shows(name: str, processes: int, tmp_path: Path) -> None:
    doc = shown(name)
    (tmp_path / "in").write_text(doc["input"])
    args = doc.get("arguments", "").split()
    done = mr.local().run(
        EXAMPLES / f"{name}.py", tmp_path / "in", tmp_path / "out", args=args, processes=processes
    )
    parts = sorted(done.output.glob("part-*"))
    lines = sorted("".join(part.read_text() for part in parts).splitlines(keepends=True))
    assert "".join(lines) == doc["output"]


def kv(line: str) -> tuple[str, str]:
    key, _, value = line.partition("\t")
    return key, value


PARSE = {
    "reverse_links": kv,
    "inverted_index": kv,
    "term_vector": lambda line: (json.loads(line),),
    "minmax_temperature": lambda line: (line.split(","),),
}


@pytest.mark.parametrize("name", JOBS)
def test_an_example_makes_the_bytes_of_the_reference(name: str, tmp_path: Path) -> None:
    doc = shown(name)
    files = [tmp_path / f"{i}.in" for i in range(3)]
    for i, file in enumerate(files):
        file.write_text("".join(doc["input"].splitlines(keepends=True)[i:] * (i + 1)))
    args = doc.get("arguments", "").split()
    done = mr.local().run(EXAMPLES / f"{name}.py", files, tmp_path / "out", args=args, split_size=40)
    job = loader.load(EXAMPLES / f"{name}.py", args).job
    step = job.steps[0]
    wanted = reference(
        job.registry.find("mapper", step.mapper).call,
        job.registry.find("reducer", step.reducer).call,
        files,
        reduces=step.reduces or 8,
        parse=PARSE.get(name, lambda line: (line,)),
        cell=str if job.output.name == "text" else None,
    )
    assert [part.read_bytes() for part in sorted(done.output.glob("part-*"))] == wanted
