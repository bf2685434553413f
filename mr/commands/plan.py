"""`mr plan` and `--dry-run`: what would be run, where, in how many waves. Changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mr import units
from mr.commands import flags
from mr.commands.flags import Session
from mr.errors import Error, Rejected, Unavailable

if TYPE_CHECKING:
    from mr.rpc.cluster_pb2 import WorkerInfo
    from mr.rpc.job_pb2 import Split
    from mr.submit import Prepared


@click.command(cls=flags.JobCommand)
@flags.job_flags
@flags.formatted
@flags.common
def plan(session: Session, **given: Any) -> int:
    """Shows the splits, tasks and waves of JOB with its INPUTs. Exit 5 when no worker could take its tasks."""
    from mr.submit import prepare

    given["output"] = given["output"] or "out"  # a plan needs none
    show(session, prepare(flags.job_request(session, given)))
    return 0


def show(session: Session, prepared: Prepared) -> None:
    """Prints the plan. Raises Rejected (CANNOT_PLACE)."""
    from mr import render

    workers, note = _workers(session)
    facts = describe(prepared, workers)
    if session.machine:
        print(render.line(facts) if session.form == "jsonl" else render.dump(facts))
    else:
        _print(prepared, facts, note, wide=session.form == "wide")
    _check_place(prepared, workers)


def describe(prepared: Prepared, workers: list[WorkerInfo] | None) -> dict[str, Any]:
    """The plan as one object. `slots`, `workers` and waves are null without a cluster."""
    spec = prepared.spec
    usable = [worker for worker in workers or () if worker.state == "active"]
    slots = sum(worker.slots for worker in usable) if workers is not None else None
    tasks = [_step(prepared, n, slots) for n in range(len(spec.steps))]
    return {
        "name": spec.name,
        "input_files": spec.input_files,
        "input_bytes": spec.input_bytes,
        "splits": spec.maps,
        "split_bytes": spec.options.split_bytes,
        "steps": tasks,
        "output": spec.output.path,
        "code": spec.code_digest.hex(),
        "code_bytes": len(prepared.bundle),
        "plan": spec.plan_digest,
        "workers": len(usable) if workers is not None else None,
        "slots": slots,
        "largest_split_bytes": max((split.bytes for split in prepared.plan.splits), default=0),
    }


def _step(prepared: Prepared, number: int, slots: int | None) -> dict[str, Any]:
    """One step's tasks, and in how many waves the slots can run them."""
    maps, reduces = _maps(prepared, number), prepared.spec.steps[number].reduces
    return {
        "step": number,
        "maps": maps,
        "reduces": reduces,
        "map_waves": -(-maps // slots) if slots else None,
        "reduce_waves": -(-reduces // slots) if slots else None,
    }


def _maps(prepared: Prepared, step: int) -> int:
    """Maps of step k > 0 read the parts of step k - 1."""
    if step == 0:
        return prepared.spec.maps
    before = prepared.spec.steps[step - 1]
    return before.reduces or _maps(prepared, step - 1)


def _print(prepared: Prepared, facts: dict[str, Any], note: str, *, wide: bool) -> None:
    code = f"code {facts['code'][:6]}, {units.size(facts['code_bytes'])}"
    print(f"job {facts['name']}   {code}   plan {facts['plan'][:6]}")
    amount = f"{units.plural(facts['input_files'], 'file')}, {units.size(facts['input_bytes'])}"
    splits = f"{units.plural(facts['splits'], 'split')}, largest {units.size(facts['largest_split_bytes'])}"
    print(f"input {amount}   {splits}")
    for step in facts["steps"]:
        waves = f"   waves {step['map_waves']} + {step['reduce_waves']}" if facts["slots"] else ""
        print(f"step {step['step']}   maps {step['maps']}   reduces {step['reduces']}{waves}")
    print(
        f"cluster {units.plural(facts['workers'], 'worker')}, {facts['slots']} slots"
        if facts["slots"]
        else note
    )
    print("nothing was changed")
    if wide:
        for n, split in enumerate(prepared.plan.splits):
            print(f"m-{n}  {units.size(split.bytes)}  {_pieces(split)}")


def _pieces(split: Split) -> str:
    return "  ".join(
        piece.path
        if (piece.start, piece.end) == (0, piece.size)
        else f"{piece.path}[{piece.start}:{piece.end}]"
        for piece in split.pieces
    )


def _workers(session: Session) -> tuple[list[WorkerInfo] | None, str]:
    """The workers, or None and why they are not known: a plan needs no cluster."""
    try:
        session.timeout = min(session.timeout or 2.0, 2.0)
        with session.connect() as client:
            return client.workers(), "the cluster has no workers"
    except Unavailable:
        return None, "no cluster was asked: none answers"
    except Error as error:
        return None, f"no cluster was asked: {error}"


def _check_place(prepared: Prepared, workers: list[WorkerInfo] | None) -> None:
    if workers is None:
        return
    need = prepared.spec.options.memory_bytes
    usable = [worker for worker in workers if worker.state == "active" and worker.memory_bytes >= need]
    if not usable:
        size = f" with {units.size(need)} of memory" if need else ""
        raise Rejected(
            f"no worker{size} could take a task",
            code="CANNOT_PLACE",
            next="see `mr workers`; start one with mr-worker",
        )
