"""Three shapes of job file, one JobSpec: equal settings give an equal plan digest (S1-11, interface.md section 3)."""

import textwrap
from pathlib import Path

import pytest

from mr import loader
from mr.compile import compile_job
from mr.registry import JobFileError

A = """
    def mapper(line):
        for word in line.split():
            yield word.lower(), 1

    def reducer(word, counts):
        yield word, sum(counts)

    combiner = reducer
"""
B = """
    import mr

    @mr.mapper("wc.tokenize")
    def tokenize(line: str):
        yield from ((w.lower(), 1) for w in line.split())

    @mr.reducer("wc.add", combine=True)
    def add(word: str, counts):
        yield word, sum(counts)

    job = mr.Job("wordcount", [mr.step(tokenize, add, reduces=8)], input=mr.text(), output=mr.tsv())
"""
C = """
    import mr

    class WordCount(mr.JobClass):
        REDUCES = 8
        COMBINE = True
        def configure_args(self, p): p.add_argument("--min", type=int, default=1)
        def mapper(self, _, line):
            for w in line.split(): yield w.lower(), 1
        def reducer(self, w, ns):
            yield w, sum(ns)

    if __name__ == "__main__":
        WordCount.run()
"""


def spec_of(tmp_path: Path, text: str, *args: str, **flags):
    file = tmp_path / "wordcount.py"
    file.write_text(textwrap.dedent(text))
    code = loader.load(file, args)
    return compile_job(code.job, job_file=file.name, args=args, flags=flags)


def test_equal_settings_give_an_equal_plan_digest_in_all_three_shapes(tmp_path: Path) -> None:
    specs = [spec_of(tmp_path, shape) for shape in (A, B, C)]
    assert len({spec.plan_digest for spec in specs}) == 1
    assert [spec.steps[0].mapper for spec in specs] == [
        "wordcount.mapper",
        "wc.tokenize",
        "wordcount.WordCount.mapper",
    ]
    assert all(spec.name == "wordcount" for spec in specs)
    assert all(spec.steps[0].reduces == 8 and spec.options.split_bytes == 64 << 20 for spec in specs)


@pytest.mark.parametrize(
    "change",
    [
        {"reduces": 9},
        {"split_size": "1MiB"},
        {"skip_bad": 1},
        {"input_format": "kv"},
        {"output_format": "jsonl"},
    ],
)
def test_every_setting_changes_the_plan_digest(tmp_path: Path, change) -> None:
    assert spec_of(tmp_path, B).plan_digest != spec_of(tmp_path, B, **change).plan_digest


@pytest.mark.parametrize("change", [{"name": "other"}])
def test_a_name_does_not_change_the_plan_digest(tmp_path: Path, change) -> None:
    assert spec_of(tmp_path, B).plan_digest == spec_of(tmp_path, B, **change).plan_digest


def test_flags_beat_the_job_and_the_job_beats_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "job.py"
    file.write_text(
        "import mr\ndef m(v): ...\ndef r(k, vs): ...\njob = mr.Job('j', mr.step(m, r), skip_bad=3, max_attempts=2)\n"
    )
    job = loader.load(file).job
    defaults = {"skip_bad": 1, "priority": 7, "max_attempts": 9, "reduces": 5}
    spec = compile_job(job, job_file="job.py", defaults=defaults, flags={"max_attempts": 6})
    assert (spec.options.skip_bad, spec.options.priority, spec.options.max_attempts) == (3, 7, 6)
    assert spec.steps[0].reduces == 5
    assert compile_job(job, job_file="job.py", flags={"reduces": 2}).steps[0].reduces == 2


def test_a_class_reads_the_arguments_of_the_job(tmp_path: Path) -> None:
    assert list(spec_of(tmp_path, C, "--min", "3").args) == ["--min", "3"]
    with pytest.raises(JobFileError, match="unrecognized arguments: --max"):
        spec_of(tmp_path, C, "--max", "3")


@pytest.mark.parametrize(
    ("promise", "text", "message"),
    [
        (
            "no job at all",
            "x = 1",
            r"job\.py has no job: no mr\.Job, no class of mr\.JobClass, no function named mapper",
        ),
        ("a syntax error names its line", "a = 1\ndef f(:\n  pass\n", r"job\.py:2: syntax error: .*def f\(:"),
        (
            "an exception names its line",
            "a = 1\nb = a / 0\n",
            r"job\.py:2: ZeroDivisionError: division by zero",
        ),
        (
            "a missing module names itself",
            "import nosuchmodule\n",
            r"job\.py:1: ModuleNotFoundError: .*nosuchmodule",
        ),
        (
            "sys.exit is no way out",
            "import sys\nsys.exit(3)\n",
            r"job\.py:2: the job file ended the process: sys\.exit\(3\)",
        ),
        ("a mapper that is no function", "mapper = 12\n", "`mapper` in job.py is 12, not a function"),
        (
            "an unknown name in a step",
            "import mr\njob = mr.Job('j', mr.step('wc.nothing'))\n",
            '"wc.nothing" is not registered; known mappers: none',
        ),
        (
            "several jobs",
            "import mr\ndef m(v): ...\na = mr.Job('a', mr.step(m))\nb = mr.Job('b', mr.step(m))\n",
            r"has 2 jobs \(a, b\); name the one to run `job`",
        ),
        (
            "several classes",
            "import mr\nclass A(mr.JobClass):\n def mapper(self, v): 0\nclass B(mr.JobClass): mapper = A.mapper\n",
            r"has 2 job classes \(A, B\)",
        ),
        (
            "an unknown format",
            "import mr\ndef m(v): ...\njob = mr.Job('j', mr.step(m), input=mr.format_named('avroo'))\n",
            "no input format 'avroo'; known are",
        ),
        (
            "an unknown option of a format",
            "import mr\ndef m(v): ...\njob = mr.Job('j', mr.step(m), input=mr.text(colour='red'))\n",
            "colour",
        ),
        (
            "a name used twice",
            "import mr\n@mr.mapper('x')\ndef a(v): ...\n@mr.reducer('x')\ndef b(k, vs): ...\n",
            r"job\.py:5",
        ),
        (
            "a bare mapper of wrong arity",
            "def mapper(): ...\n",
            r'job\.py:1: mapper "job\.mapper" takes 0 arguments',
        ),
    ],
)
def test_a_mistake_in_a_job_file_gives_one_clear_message(
    tmp_path: Path, promise: str, text: str, message: str
) -> None:
    file = tmp_path / "job.py"
    file.write_text(text)
    with pytest.raises(JobFileError, match=message) as caught:
        compile_job(loader.load(file).job, job_file="job.py")
    assert caught.value.exit_code == 2, promise
    assert "\n" not in str(caught.value)


def test_only_the_derived_class_of_a_family_is_the_job(tmp_path: Path) -> None:
    text = C + "\n    class Sorted(WordCount):\n        SORT_VALUES = True\n"
    assert spec_of(tmp_path, text).steps[0].sort_values


def test_settings_stand_in_capitals_in_shapes_a_and_c(tmp_path: Path) -> None:
    bare = spec_of(
        tmp_path, A + "\n    REDUCES = 3\n    SKIP_BAD = 2\n    INPUT = 'x.txt'\n    OUTPUT = 'out'\n"
    )
    assert (bare.steps[0].reduces, bare.options.skip_bad) == (3, 2)
    assert (list(bare.input.patterns), bare.output.path) == (["x.txt"], "out")
    derived = spec_of(
        tmp_path, C.replace("REDUCES = 8", "REDUCES = 8\n        SKIP_BAD = 2\n        INPUT = ['a', 'b']")
    )
    assert derived.options.skip_bad == 2
    assert list(derived.input.patterns) == ["a", "b"]
