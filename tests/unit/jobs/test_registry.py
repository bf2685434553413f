"""Names of functions: one name, one function, across mappers and reducers (S1-02, S1-03, S1-04)."""

import functools

import pytest

import mr
from mr.errors import Cause, TaskFailure
from mr.registry import JobFileError, Registry, collecting


@pytest.fixture
def names():
    with collecting(Registry()) as registry:
        yield registry


def test_a_decorated_function_is_found_by_name_and_stays_itself(names: Registry) -> None:
    @mr.mapper("wc.tokenize")
    def tokenize(line):
        yield line, 1

    assert names.find("mapper", "wc.tokenize").call is tokenize
    assert list(tokenize("a")) == [("a", 1)]


def test_a_name_used_twice_raises_at_import_with_both_lines(names: Registry) -> None:
    @mr.mapper("wc.add")
    def first(line):
        yield line, 1

    with pytest.raises(JobFileError) as caught:

        @mr.reducer("wc.add")
        def second(key, values):
            yield key, 1

    text = str(caught.value)
    assert '"wc.add" is used twice' in text
    lines = [function.__code__.co_firstlineno + 1 for function in (first,)]
    assert f"mapper at test_registry.py:{lines[0]}" in text
    assert "reducer at test_registry.py:" in text


def test_an_unknown_name_says_which_are_known(names: Registry) -> None:
    mr.mapper("b.known")(lambda line: [])
    mr.mapper("a.known")(lambda line: [])
    mr.reducer("a.reducer")(lambda key, values: [])
    with pytest.raises(
        TaskFailure, match=r'"gone" is not registered; known mappers: a\.known, b\.known'
    ) as caught:
        names.find("mapper", "gone")
    assert caught.value.cause is Cause.FUNCTION_NOT_FOUND
    with pytest.raises(TaskFailure, match=r'"a\.reducer" is a reducer, not a mapper'):
        names.find("mapper", "a.reducer")


def value_only(value): ...
def key_and_value(key, value): ...
def with_ctx(value, ctx): ...
def key_value_ctx(key, value, ctx): ...
def with_default(value, sep=","): ...
def keyword_ctx(value, *, ctx): ...
def anything(*args): ...


@pytest.mark.parametrize(
    ("call", "takes", "wants_ctx"),
    [
        (value_only, 1, False),
        (key_and_value, 2, False),
        (with_ctx, 1, True),
        (key_value_ctx, 2, True),
        (with_default, 1, False),
        (keyword_ctx, 1, True),
        (anything, 1, False),
        (str.split, 1, False),
        (functools.partial(key_and_value, "k"), 1, False),
    ],
)
def test_a_mapper_is_called_with_what_it_takes(names: Registry, call, takes: int, wants_ctx: bool) -> None:
    function = names.add("mapper", "m", call)
    assert (function.takes, function.wants_ctx) == (takes, wants_ctx)


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        ("mapper", lambda: 0, r"takes 0 arguments; a mapper takes \(value\) or \(key, value\)"),
        ("mapper", lambda a, b, c: 0, "takes 3 arguments"),
        ("reducer", lambda values: 0, r"takes 1 argument; a reducer takes \(key, values\)"),
        ("combiner", lambda a, b, c: 0, r"a combiner takes \(key, values\)"),
        ("partitioner", lambda key: 0, r"a partitioner takes \(key, reduces\)"),
        ("setup", lambda key: 0, "a setup takes"),
        ("mapper", 12, "a mapper is a function, not 12"),
    ],
)
def test_a_function_that_does_not_fit_is_refused_at_import(names: Registry, kind, call, message: str) -> None:
    with pytest.raises(JobFileError, match=message):
        names.add(kind, "f", call)


def test_an_async_function_is_refused(names: Registry) -> None:
    async def mapper(line): ...

    with pytest.raises(JobFileError, match="is async"):
        names.add("mapper", "m", mapper)


def test_a_reducer_may_be_a_combiner_but_a_mapper_no_reducer(names: Registry) -> None:
    def add(key, values): ...
    def split(line): ...

    mr.reducer("add")(add)
    mr.mapper("split")(split)
    assert mr.step(split, add, combiner=add).combiner == "add"
    with pytest.raises(JobFileError, match='"split" is a mapper, used as a reducer'):
        mr.step(None, split)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f, r: mr.step(), "needs a mapper or a reducer"),
        (lambda f, r: mr.step(f, reduces=3), "without a reducer"),
        (lambda f, r: mr.step(f, r, reduces=0), "reduces is a number from 1"),
        (lambda f, r: mr.step(f, r, reduces="8"), "reduces is a number from 1"),
        (lambda f, r: mr.Job("j", []), "at least one mr.step"),
        (lambda f, r: mr.Job("j", [f]), "at least one mr.step"),
        (lambda f, r: mr.Job("j", mr.step(f, r), speed=9), 'no setting "speed"'),
        (lambda f, r: mr.Job("j", mr.step(f, r), split_size="many"), "split_size: 'many' is not a size"),
        (lambda f, r: mr.Job("j", mr.step(f, r), skip_bad=-1), "skip_bad is a number"),
        (lambda f, r: mr.Job("j", mr.step(f, r), priority=101), "priority is a number from 0 to 100"),
        (lambda f, r: mr.Job("j", mr.step(f, r), input=mr.text), "write mr.text\\(\\)"),
    ],
)
def test_a_wrong_job_is_refused_where_it_is_made(names: Registry, make, message: str) -> None:
    def mapper(line): ...
    def reducer(key, values): ...

    with pytest.raises(JobFileError, match=message):
        make(mapper, reducer)
