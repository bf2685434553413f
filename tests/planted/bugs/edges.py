"""Bugs at the edges: doors that are open, lines that are missing, files and steps that few jobs have."""

from __future__ import annotations

from typing import Any

from tests.planted.bug import QUIET, Bug, work

LITTLE = {
    **QUIET,
    "works": (work("wordcount", 0), work("tiny", 1, files=1, reduces=1, cancel_after_s=0.0, map_s=2.0)),
}
SCENES = {**QUIET, "works": (work("tiny", 0, files=1, reduces=1),)}


def roles_not_checked() -> None:
    """A certificate of any role may call everything."""
    from master import access

    access.admit = lambda method, caller: None


def owner_not_checked() -> None:
    """Any user may end any user's job."""
    from master.service import ClusterService

    async def anybody(self: Any, text: str, caller: Any) -> str:
        return str(self._find(text))

    ClusterService._own_job = anybody  # type: ignore[method-assign]


def strangers_let_in() -> None:
    """A certificate is checked when one is shown, and not asked for; who shows none may do everything."""
    import grpc

    from mr import tls

    make = grpc.dynamic_ssl_server_credentials

    def lenient(initial: Any, fetch: Any, require_client_authentication: bool = True) -> Any:
        return make(initial, fetch, require_client_authentication=False)

    grpc.dynamic_ssl_server_credentials = lenient
    assert tls.server_credentials  # it looks the function up when it is called


def cancels_not_audited() -> None:
    """The audit log has no line of a cancel."""
    from master import access

    record = access._record

    def quiet(method: str, caller: Any, request: Any, outcome: str) -> None:
        if not method.endswith("/Cancel"):
            record(method, caller, request, outcome)

    access._record = quiet


def keys_not_hidden() -> None:
    """Task processes see the folder of the worker's keys."""
    from worker import child

    start = child.TaskProcess.__init__

    def careless(self: Any, how: Any) -> None:
        from dataclasses import replace

        start(self, replace(how, hidden=()))

    child.TaskProcess.__init__ = careless  # type: ignore[method-assign]


def side_files_forgotten() -> None:
    """Publication takes the parts of the last step and nothing else."""
    from master import orders

    published = orders._published
    orders._published = lambda job: (file for file in published(job) if file.name)


def first_file_for_every_map() -> None:
    """Every map of a second step reads the first file of the step before."""
    from master import orders

    source = orders._source
    orders._source = lambda job, step, index: source(job, step, 0)


def empty_parts_left_out() -> None:
    """A reduce without keys has no part."""
    from mr import output

    all_files = output._all_files
    output._all_files = lambda files: (file for file in all_files(files) if file.bytes)


def log_never_trimmed() -> None:
    """No snapshot is ever due."""
    from consensus.compacting import Compacting

    Compacting.due = lambda self, handed: False  # type: ignore[method-assign]


def large_messages_taken() -> None:
    """A message may have any size."""
    from master import server

    server._OPTIONS[:] = [
        (name, -1 if name == "grpc.max_receive_message_length" else value) for name, value in server._OPTIONS
    ]


def commit_without_a_majority() -> None:
    """What the leader has on its own disk counts as committed, and it never gives up its office."""
    from consensus import leading, node

    leading.agreed = lambda own, members, majority: own
    leading.confirmed_round = lambda current, members, majority: current
    leading.last_quorum = lambda now, members, majority: now
    assert node  # it asks `leading`


def budget_without_end() -> None:
    """No number of failures of the user's code ends a job."""
    from master import attempt_commands

    attempt_commands.why_hopeless = lambda *args: ""


def lost_counters_kept() -> None:
    """The counters of a map whose output was lost stay, and those of its next winner are added."""
    from master.jobs import Job

    Job.take_back_counters = lambda self, packed: {}  # type: ignore[method-assign]


def code_of_another_job() -> None:
    """A worker keeps the code of the first job it has seen, and gives it to all others."""
    from worker.code import CodeStore

    get = CodeStore.get
    first: list[bytes] = []

    async def same(self: Any, digest: bytes) -> Any:
        first.append(digest)
        return await get(self, first[0])

    CodeStore.get = same  # type: ignore[method-assign]


def changed_inputs_read() -> None:
    """Nobody looks whether an input is still what was listed."""
    from mr import inputs

    inputs._check_unchanged = lambda piece, status: None


def byte_order_mark_kept() -> None:
    """The mark at the beginning of a file is a part of its first line."""
    from mr import readers

    readers._BOM = b"no such beginning"


def values_out_of_order() -> None:
    """The runs of a reduce are merged in any order: values of a key come as they may."""
    from mr.shuffle import merge

    groups = merge.groups

    def mixed(runs: Any, *args: Any, **kwargs: Any) -> Any:
        for key, values in groups(runs, *args, **kwargs):
            yield key, iter(sorted(values, key=repr, reverse=True))

    import mr.attempt_reduce  # so that it is loaded

    merge.groups = mixed
    for name, value in list(vars(mr.attempt_reduce).items()):
        if value is groups:
            setattr(mr.attempt_reduce, name, mixed)


BUGS = [
    Bug(name="roles-not-checked", breaks="S2", plant=roles_not_checked, run=LITTLE),
    Bug(
        name="owner-not-checked",
        breaks="S2",
        plant=owner_not_checked,
        run={**SCENES, "scenes": "trespass"},
    ),
    Bug(name="strangers-let-in", breaks="S1", plant=strangers_let_in, run=LITTLE),
    Bug(name="cancels-not-audited", breaks="S7", plant=cancels_not_audited, run=LITTLE),
    Bug(name="keys-not-hidden", breaks="S4", plant=keys_not_hidden, run={**SCENES, "scenes": "peek"}),
    Bug(
        name="side-files-forgotten",
        breaks="D1, D2",
        plant=side_files_forgotten,
        run={**SCENES, "scenes": "sides"},
    ),
    Bug(
        name="first-file-for-every-map",
        breaks="D1",
        plant=first_file_for_every_map,
        run={**SCENES, "scenes": "chain"},
    ),
    Bug(
        name="empty-parts-left-out",
        breaks="D2",
        plant=empty_parts_left_out,
        run={**SCENES, "scenes": "sparse"},
        in_tasks=True,
    ),
    Bug(
        name="log-never-trimmed",
        breaks="T15",
        plant=log_never_trimmed,
        run={
            **QUIET,
            "seconds": 10.0,
            "works": tuple(work("tiny", n, files=1, reduces=1, at_s=0.5 * n) for n in range(16)),
            "settings": {"MR_MASTER__SNAPSHOT_EVERY": "10"},
        },
    ),
    Bug(name="large-messages-taken", breaks="S6", plant=large_messages_taken, run=LITTLE),
    Bug(
        name="commit-without-a-majority",
        breaks="C15, C4, C5, C8, C11",
        plant=commit_without_a_majority,
        run={
            **QUIET,
            "masters": 3,
            "seconds": 24.0,
            # accepted before no master reaches another, cancelled meanwhile; then two leaders have their own truths
            "works": (
                work("tiny", 9, files=1, reduces=1),
                *tuple(
                    work(
                        "wordcount",
                        n,
                        files=2,
                        reduces=1,
                        at_s=0.3 * n,
                        map_s=9.0,
                        cancel_after_s=2.0 + 1.2 * n,
                    )
                    for n in range(6)
                ),
            ),
            "faults": "all",
            "script": ((4.0, "masters-apart", 6.0), (14.0, "leader-from-masters", 6.0)),
        },
    ),
    Bug(
        name="budget-without-end",
        breaks="T6, T12",
        plant=budget_without_end,
        run={**QUIET, "works": (work("poison", 0, files=2, reduces=1), work("wordcount", 1)), "calm_s": 15.0},
    ),
    Bug(
        name="lost-counters-kept",
        breaks="T11",
        plant=lost_counters_kept,
        run={
            **QUIET,
            "seconds": 12.0,
            "works": (work("long", 0, files=24, lines=20, reduces=2, map_s=1.0),),
            "faults": "all",
            "script": ((6.0, "kill-worker", 0.5),),
        },
    ),
    Bug(
        name="changed-inputs-read",
        breaks="D8",
        plant=changed_inputs_read,
        run={**SCENES, "scenes": "altered,altered,altered"},
        in_tasks=True,
    ),
    Bug(
        name="byte-order-mark-kept",
        breaks="D1",
        plant=byte_order_mark_kept,
        run={**SCENES, "scenes": "odd"},
        in_tasks=True,
    ),
    Bug(name="code-of-another-job", breaks="T6, D1", plant=code_of_another_job, run=QUIET),
    Bug(
        name="values-out-of-order",
        breaks="D1, D11",
        plant=values_out_of_order,
        run={**QUIET, "works": (work("skew", 0), work("wordcount", 1))},
        in_tasks=True,
    ),
]
