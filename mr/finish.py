"""The `finalize(results)` hook: once, where the output was published, after it was (S2-08).

The output is already there and stays as it is: an exception in the hook is a note on the finished job and not a
failed job. A worker that dies between publication and its report makes another one run the hook again.
"""

from __future__ import annotations

from mr import context as contexts
from mr.failures import describe_failure
from mr.loader import Code
from mr.results import read_results
from mr.rpc import job_pb2 as pb
from mr.usercode import UserCode

NOTE_LIMIT = 1024


def run_finalize(spec: pb.JobSpec, code: Code | None) -> str:
    """Runs the hook over the published results; what it returns, or how it failed, as a note."""
    if code is None:
        return "finalize did not run: the task came without the job's code"
    context = contexts.Context(job_id=spec.job_id, task_id="c-0", kind="finalize", args=tuple(spec.args))
    contexts.enter(context)
    try:
        found = UserCode(code, spec, context).bind("finalize", spec.finalize)
        assert found is not None
        said = found[1](read_results(spec.output.path))
        return "" if said is None else str(said)[:NOTE_LIMIT]
    except (Exception, SystemExit) as error:
        return f"finalize failed: {describe_failure(error)}"[:NOTE_LIMIT]
    finally:
        contexts.enter(None)
