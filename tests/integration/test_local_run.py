"""Whole jobs on one machine: the reference's bytes in every mode, and every failure with one clear cause.

S0-01, S0-18, S1-12, S2-08, S3-24, S4-03, P-04, P-06, P-07, P-08, P-10; D6, D11; FT16, FD26.
"""

import hashlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr
from mr.errors import Cause, JobFailed
from tests.reference import reference

WORDCOUNT = Path(__file__).parents[2] / "examples" / "wordcount.py"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a job file and its neighbours; returns the job file."""

    def written(text: str, name: str = "job.py", **others: str) -> Path:
        folder = tmp_path / "code"
        folder.mkdir(exist_ok=True)
        for stem, body in others.items():
            (folder / f"{stem}.py").write_text(textwrap.dedent(body))
        (folder / name).write_text(textwrap.dedent(text))
        return folder / name

    return written


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "lines.txt"
    file.write_text("".join(f"{i} word{i % 7}\n" for i in range(1, 301)))
    return file


def parts(result: mr.local.LocalResult) -> list[bytes]:
    return [part.read_bytes() for part in sorted(result.output.glob("part-*"))]


def split(line):
    for word in line.split():
        yield word.lower(), 1


def add(word, counts):
    yield word, sum(counts)


# --- the same bytes -------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=60) | st.text("ab \n\r\té\x00", max_size=60)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(TEXT, max_size=4), split_size=st.integers(1, 80), reduces=st.integers(1, 9))
def test_any_text_cut_anywhere_gives_the_bytes_of_the_reference(
    files: list[str], split_size: int, reduces: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("in")
    paths = [folder / f"{i}.txt" for i in range(len(files))]
    for path, text in zip(paths, files, strict=True):
        path.write_bytes(text.encode())
    done = mr.local().run(WORDCOUNT, folder, split_size=split_size, reduces=reduces)
    assert parts(done) == reference(split, add, paths, reduces)


def test_processes_and_inline_and_tiny_spills_give_the_same_bytes(tmp_path: Path, lines: Path) -> None:
    wanted = reference(split, add, [lines])
    for flags in ({}, {"processes": 3}, {"split_size": 100}, {"split_size": 100, "processes": 2}):
        assert parts(mr.local().run(WORDCOUNT, lines, **flags)) == wanted, flags


def test_maps_come_in_order_and_then_reduces_in_order_on_one_machine(lines: Path) -> None:
    moves: list[tuple[str, int, int]] = []
    mr.local().run(
        WORDCOUNT,
        lines,
        split_size=1000,
        reduces=3,
        on_progress=lambda m: moves.append((m.phase, m.done, m.total)),
    )
    maps = moves[0][2]
    wanted = [("map", i, maps) for i in range(maps + 1)] + [("reduce", i, 3) for i in range(4)]
    assert moves == [*wanted, ("commit", 0, 1), ("commit", 1, 1)]


STEPS = """
    import mr

    def words(line): return [(word, 1) for word in line.split()]
    def add(word, ns): yield word, sum(ns)
    def turn(word, n): yield (n, len(word)), word
    def names(key, words): yield key[0], sorted(words)

    job = mr.Job("steps", [mr.step(words, add, reduces=3, combiner=True), mr.step(turn, names, reduces=2)],
                 output=mr.jsonl())
"""


def test_a_second_step_maps_over_the_typed_output_of_the_first(write: Write, tmp_path: Path) -> None:
    file = tmp_path / "in.txt"
    file.write_text("b a\na c\n")
    for processes in (0, 2):
        done = mr.local().run(write(STEPS), file, processes=processes)
        assert sorted(done.results()) == [(1, ["b", "c"]), (2, ["a"])]
        assert len(parts(done)) == 2


def test_a_step_without_a_reducer_writes_one_part_a_map(write: Write, lines: Path) -> None:
    job = write("def mapper(line):\n    if line.endswith('word3'): yield None, line.upper()\n")
    done = mr.local().run(job, lines, split_size=1000, output_format="text")
    maps = len(parts(done))
    assert maps > 1
    assert sorted(p.name for p in done.output.glob("part-*"))[0] == "part-m-00000"
    wanted = [line.upper() for line in lines.read_text().splitlines() if line.endswith("word3")]
    assert b"".join(parts(done)).decode().splitlines() == wanted


def test_a_reducer_without_a_mapper_gets_the_records_as_they_are(write: Write, tmp_path: Path) -> None:
    file = tmp_path / "in"
    file.write_text("b\t1\na\t2\nb\t3\n")
    job = write("import mr\ndef reducer(k, vs): yield k, '+'.join(vs)\nINPUT = mr.kv()\nREDUCES = 1\n")
    assert list(mr.local().run(job, file).results()) == [("a", 2), ("b", "1+3")]


def test_no_records_make_empty_parts(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    done = mr.local().run(WORDCOUNT, tmp_path / "empty", reduces=3)
    assert parts(done) == [b"", b"", b""]
    assert (done.output / "_SUCCESS").exists()


def test_values_are_a_stream_that_may_be_left_unread(write: Write, lines: Path) -> None:
    job = write(
        """
        import mr
        def mapper(line): yield "k" + line[-1], line
        def reducer(key, values):
            assert iter(values) is iter(values)
            yield key, next(values)
        REDUCES = 1
        """
    )
    done = dict(mr.local().run(job, lines, split_size=1000).results())
    assert done["k1"] == "1 word1"
    assert len(done) == 7


def test_a_jobs_own_partitioner_decides(write: Write, tmp_path: Path) -> None:
    file = tmp_path / "in"
    file.write_text("a\nb\nc\n")
    job = write(
        """
        def mapper(line): yield line, 1
        def reducer(k, vs): yield k, sum(vs)
        def partitioner(key, reduces): return "abc".index(key) % reduces
        REDUCES = 2
        """
    )
    assert parts(mr.local().run(job, file)) == [b"a\t1\nc\t1\n", b"b\t1\n"]


# --- context, hooks, arguments --------------------------------------------------------------------------------

CONTEXT = """
    import mr

    def mapper(line, ctx):
        ctx.count("lines")
        ctx.count("bytes", len(line), group="size")
        ctx.status("at " + line)
        (ctx.temp_dir / "x").write_text(line)
        if line == "2 word2":
            with ctx.side_file("two.bin") as f: f.write(b"two")
            ctx.emit_to("odd")(line, ctx.task_id)
        yield "n", (ctx.kind, ctx.reduces, ctx.args[0], ctx.attempt)

    def reducer(key, values):
        mr.ctx().side_file("reduced").write(b"r")
        yield key, sorted(set(values))

    def finalize(results):
        return f"keys: {[key for key, _ in results]}"
"""


@pytest.mark.parametrize("processes", [0, 2])
def test_the_context_counts_keeps_side_files_and_tells_of_the_task(
    write: Write, lines: Path, processes: int
) -> None:
    done = mr.local().run(
        write(CONTEXT), lines, args=["arg"], reduces=2, processes=processes, output_format="jsonl"
    )
    assert list(done.results()) == [("n", [["map", 2, "arg", 1]])]
    assert done.counters["user:lines"] == 300
    assert done.counters["size:bytes"] == sum(map(len, lines.read_text().splitlines()))
    assert (done.output / "side/m-00000/two.bin").read_bytes() == b"two"
    reduced = {p.parent.name for p in done.output.glob("side/*/reduced")}
    assert len(reduced) == 1  # of the one key
    assert (done.output / "odd-m-00000").read_bytes() == b'{"key":"2 word2","value":"m-0"}\n'
    assert done.note == "keys: ['n']"


def test_counters_conserve_records(lines: Path) -> None:
    """D6: map out = combine in; combine out = reduce in."""
    got = mr.local().run(WORDCOUNT, lines, split_size=500).counters
    assert got["mr:map_records_in"] == 300
    assert got["mr:map_records_out"] == 600
    in_and_out = got["mr:map_records_out"] - got["mr:combine_records_in"] + got["mr:combine_records_out"]
    assert got["mr:reduce_records_in"] == in_and_out
    assert got["mr:reduce_groups_in"] == got["mr:reduce_records_out"] == 307


def test_a_class_has_arguments_hooks_and_no_memory_between_attempts(write: Write, lines: Path) -> None:
    job = write(
        """
        import mr
        class Lengths(mr.JobClass):
            REDUCES = 1
            def configure_args(self, p): p.add_argument("--min", type=int, default=1)
            def mapper_init(self): self.seen = 0
            def mapper(self, _, line):
                assert not hasattr(self, "other")
                self.seen += len(line) >= self.args.min
            def mapper_final(self):
                self.other = 1
                yield "lines", self.seen
            def reducer(self, key, ns):
                self.increment_counter("g", "keys")
                yield key, sum(ns)
        """
    )
    for processes in (0, 1):
        done = mr.local().run(job, lines, args=["--min", "8"], split_size=500, processes=processes)
        assert list(done.results()) == [("lines", sum(len(x) >= 8 for x in lines.read_text().splitlines()))]
        assert done.counters["g:keys"] == 1


class Count(mr.JobClass):
    REDUCES = 2

    def mapper(self, _, line):
        yield from split(line)

    def reducer(self, word, counts):
        yield word, sum(counts)


def test_a_job_class_runs_as_often_as_one_likes(lines: Path) -> None:
    for _ in range(2):
        assert parts(mr.local().run(Count, lines)) == reference(split, add, [lines], 2)


def test_a_job_object_runs_without_a_file(lines: Path) -> None:
    job = mr.Job("direct", mr.step(split, add, reduces=2))
    assert parts(mr.local().run(job, [lines])) == reference(split, add, [lines], 2)
    spec = mr.Spec("spec", mapper=split, reducer=add, reduces=2, inputs=[str(lines)])
    assert parts(mr.MapReduce(spec).run()) == reference(split, add, [lines], 2)


def test_the_jobs_own_modules_may_have_any_name(write: Write, lines: Path, tmp_path: Path) -> None:
    """S2-10; the house rule: mr is imported first, then the job's folder goes to sys.path[0]."""
    names = ("worker", "master", "consensus", "proto", "job", "task", "errors", "formats")
    others = {name: f"WHO = 'my {name}'\n" for name in names if name != "job"}
    imports = "\n".join(f"import {name}" for name in others)
    said = " + ".join(f"{name}.WHO" for name in others)
    job = write(
        imports + f"\ndef mapper(line): yield {said}, 1\ndef reducer(k, vs): yield k, sum(vs)\n", **others
    )
    # through the command, because this process may have imported our own `worker` for another test
    for how in (["--processes", "1"], ["--inline"]):
        out = tmp_path / how[0].strip("-")
        argv = [sys.executable, "-m", "mr.cli", "run", str(job), str(lines), "-o", str(out), "-q", *how]
        subprocess.run(argv, check=True)
        written = "".join(part.read_text() for part in sorted(out.glob("part-*")))
        assert written == "".join(f"my {name}" for name in others) + "\t300\n"


def test_data_files_of_the_bundle_lie_in_the_working_directory(
    write: Write, lines: Path, tmp_path: Path
) -> None:
    (tmp_path / "stop.txt").write_text("word1 word2")
    job = write(
        """
        def mapper(line):
            stop = open("stop.txt").read().split()
            for word in line.split():
                if word.startswith("w") and word not in stop: yield word, 1
            open("scratch", "w").close()
        def reducer(k, vs): yield k, sum(vs)
        """
    )
    before = os.getcwd()
    for processes in (0, 2):
        done = mr.local().run(job, lines, processes=processes, files=[tmp_path / "stop.txt"])
        assert len(list(done.results())) == 5
    assert os.getcwd() == before
    assert not Path("scratch").exists()


# --- failures -------------------------------------------------------------------------------------------------


def failing(job: Path, lines: Path, **flags) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        mr.local().run(job, lines, **flags)
    return caught.value


@pytest.mark.parametrize("processes", [0, 1])
def test_a_users_exception_shows_file_line_record_and_position(
    write: Write, lines: Path, processes: int
) -> None:
    job = write(
        """
        def check(number):
            if number == 250:
                raise ValueError(f"no good: {number}")

        def mapper(line):
            check(int(line.split()[0]))
            yield line, 1
        """
    )
    error = failing(job, lines, processes=processes, max_attempts=2)
    assert error.cause is Cause.USER_EXCEPTION
    assert "ValueError: no good: 250" in str(error)
    assert error.where == "job.py:4 in check"
    offset = lines.read_bytes().index(b"250 ")
    assert error.input == f"{lines} byte {offset} (record 250)"
    assert "in mapper" in error.traceback
    assert "in check" in error.traceback
    assert "attempt_map.py" not in error.traceback
    if not processes:
        assert isinstance(error.__cause__, ValueError)


def test_an_exception_of_a_reducer_names_the_key(write: Write, lines: Path) -> None:
    job = write(
        "def mapper(line): yield line.split()[1], 1\ndef reducer(key, values): yield key, 1 / (key != 'word3')\n"
    )
    error = failing(job, lines)
    assert error.task.startswith("r-")
    assert "ZeroDivisionError" in str(error)
    assert "key 'word3'" in error.input
    assert error.where == "job.py:2 in reducer"


def test_an_exception_of_a_combiner_is_attributed_to_it(write: Write, lines: Path) -> None:
    job = write(
        """
        def mapper(line): yield "k", 1
        def combiner(key, values): raise KeyError("no")
        def reducer(key, values): yield key, sum(values)
        """
    )
    error = failing(job, lines)
    assert error.cause is Cause.USER_EXCEPTION
    assert error.where == "job.py:3 in combiner"
    assert error.input.startswith("combiner")


@pytest.mark.parametrize(
    ("promise", "mapper", "cause", "message"),
    [
        (
            "a pair that is none",
            "yield line",
            Cause.BAD_TYPE,
            r"must yield \(key, value\) pairs.*it emitted '1 word1'",
        ),
        ("a returned pair", "return line, 1", Cause.BAD_TYPE, "write `yield key, value` instead of `return"),
        ("a returned text", "return line", Cause.BAD_TYPE, "it returned a str"),
        ("a returned number", "return 7", Cause.BAD_TYPE, "it returned 7"),
        ("a key that is none", "yield {1, 2}, 1", Cause.BAD_TYPE, "a set can't be a key"),
        ("a value that is none", "yield 1, object()", Cause.BAD_TYPE, "a object can't be a value"),
        ("a module that is missing", "import nosuch; yield 1, 1", Cause.MODULE_NOT_FOUND, "nosuch"),
        ("sys.exit", "import sys; sys.exit(3)", Cause.USER_EXIT, "SystemExit: 3"),
        ("a deep recursion", "mapper(line)", Cause.USER_EXCEPTION, "RecursionError"),
    ],
)
def test_every_mistake_has_one_cause(
    write: Write, lines: Path, promise: str, mapper: str, cause: Cause, message: str
) -> None:
    job = write(f"def mapper(line):\n    {mapper}\ndef reducer(k, vs): yield k, len(list(vs))\n")
    with pytest.raises(JobFailed, match=message) as caught:
        mr.local().run(job, lines)
    assert caught.value.cause is cause, promise


def test_a_late_pair_that_is_none_is_found_too(write: Write, lines: Path) -> None:
    job = write("def mapper(line):\n    yield (line if line[0] == '3' else (line, 1))\n")
    file = lines.with_name("late.txt")
    file.write_text("1\n" * 500 + "3\n")
    error = failing(job, file)
    assert error.cause is Cause.BAD_TYPE
    assert error.input.endswith("(record 501)")


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ("(line: dict)", "wants line: dict, but the record's is str: '1 word1'"),
        ("(line: str) -> Iterator[tuple[str, int]]", "promises a key of str, but emitted 1"),
        ("(line: str) -> list[tuple[int, bytes]]", "promises a value of bytes, but emitted '1 word1'"),
        ("(line: 'str | None')", None),
        ("(line: 'NoSuchName')", None),
        ("(line) -> list[tuple[float, str]]", None),
    ],
)
def test_hints_are_checked_at_the_first_records(
    write: Write, lines: Path, hints: str, message: str | None
) -> None:
    """S4-03, S4-04."""
    job = write(f"from collections.abc import Iterator\ndef mapper{hints}:\n    return [(1, line)]\n")
    if message is None:
        mr.local().run(job, lines)
        return
    error = failing(job, lines)
    assert message in str(error)
    assert error.cause is Cause.BAD_TYPE
    assert error.where == "job.py:2 in mapper"


@pytest.mark.parametrize("processes", [0, 1])
def test_bad_records_are_skipped_counted_and_kept(write: Write, lines: Path, processes: int) -> None:
    """P-07: a skipped record leaves nothing behind, not even the pairs it emitted before it failed."""
    job = write(
        """
        def mapper(line):
            yield "n", 1
            if line.startswith("1"): raise ValueError(line)
        def reducer(key, values): yield key, sum(values)
        """
    )
    bad = sum(line.startswith("1") for line in lines.read_text().splitlines())
    done = mr.local().run(job, lines, skip_bad=bad, processes=processes)
    assert list(done.results()) == [("n", 300 - bad)]
    assert done.skipped_count == bad == done.counters["mr:records_skipped"]
    assert done.skipped[0].record == "'1 word1'"
    assert done.skipped[0].message == "ValueError: 1 word1"
    error = failing(job, lines, skip_bad=bad - 1, processes=processes, max_attempts=1)
    assert error.cause is Cause.TOO_MANY_BAD_RECORDS


def test_a_record_that_kills_the_process_is_skipped_after_two_deaths(write: Write, lines: Path) -> None:
    """P-07: the record in hand is known after a crash."""
    job = write(
        """
        import os
        def mapper(line):
            if line == "150 word3": os.kill(os.getpid(), 11)
            yield "n", 1
        def reducer(key, values): yield key, sum(values)
        """
    )
    done = mr.local().run(job, lines, skip_bad=1, processes=2)
    assert list(done.results()) == [("n", 299)]
    assert done.skipped[0].record == "'150 word3'"
    error = failing(job, lines, processes=1)
    assert error.cause is Cause.NATIVE_SIGNAL
    assert "SIGSEGV" in str(error)
    assert error.input == f"{lines} byte {lines.read_bytes().index(b'150 ')} (record 150)"


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        ("os._exit(0)", Cause.USER_EXIT),
        ("os.closerange(0, 1000)", Cause.USER_EXIT),
        ("os.abort()", Cause.NATIVE_SIGNAL),
    ],
)
def test_whatever_a_process_does_to_itself_is_a_failure_and_no_hang(
    write: Write, lines: Path, harm: str, cause: Cause
) -> None:
    """FT16."""
    job = write(f"import os\ndef mapper(line):\n    {harm}\n    yield line, 1\n")
    assert failing(job, lines, processes=1, max_attempts=2).cause is cause


@pytest.mark.parametrize(
    "harm", ["sys.stdout.close()", "os.close(1); os.close(2)", "sys.stdout = None", "print(line)"]
)
def test_a_task_survives_what_a_record_does_to_stdout(write: Write, lines: Path, harm: str, capfd) -> None:
    job = write(
        f"""
        import os, sys
        def mapper(line):
            if line == "5 word5" or line == "200 word4":
                {harm}
            yield "n", 1
        def reducer(k, vs): yield k, sum(vs)
        """
    )
    done = mr.local().run(job, lines, split_size=1500, processes=1)
    assert list(done.results()) == [("n", 300)]
    assert capfd.readouterr().out == ""


def test_an_attempt_that_fails_leaves_nothing_and_a_later_one_wins(
    write: Write, lines: Path, tmp_path: Path
) -> None:
    """P-06, P-10: the loser's side file and counters are gone."""
    marker = tmp_path / "tried"
    job = write(
        """
        from pathlib import Path
        def mapper(line, ctx):
            ctx.count("seen")
            ctx.side_file("attempt").write(str(ctx.attempt).encode())
            if ctx.attempt == 1 and line.startswith("300"): raise RuntimeError("flaky")
            yield "n", 1
        def reducer(k, vs): yield k, sum(vs)
        """
    )
    done = mr.local().run(job, lines, tmp_path / "out", processes=1)
    assert list(done.results()) == [("n", 300)]
    assert done.counters["user:seen"] == 300
    assert (done.output / "side/m-00000/attempt").read_bytes() == b"2" * 300
    assert not marker.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["code", "lines.txt", "out"]


def test_a_failed_job_leaves_nothing_behind(write: Write, lines: Path, tmp_path: Path) -> None:
    job = write("def mapper(line): raise ValueError\n")
    for processes in (0, 1):
        failing(job, lines, output=tmp_path / "out", processes=processes)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["code", "lines.txt"]


def test_what_is_wrong_before_anything_runs_is_said_first(write: Write, lines: Path, tmp_path: Path) -> None:
    with pytest.raises(mr.Usage, match=r"wordcount\.py has no input"):
        mr.local().run(WORDCOUNT)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    digest = hashlib.sha256(lines.read_bytes()).digest()
    with pytest.raises(Exception, match="not empty"):
        mr.local().run(WORDCOUNT, lines, tmp_path / "full")
    with pytest.raises(Exception, match=r"nothing\.txt"):
        mr.local().run(WORDCOUNT, tmp_path / "nothing.txt")
    assert hashlib.sha256(lines.read_bytes()).digest() == digest
