"""Every checker, and the judgement of a whole run. A checker that crashes says unknown, never valid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from jepsen_like import checkers_access as access
from jepsen_like import checkers_attempts as attempts
from jepsen_like import checkers_clients as clients
from jepsen_like import checkers_consensus as consensus
from jepsen_like import checkers_data as data
from jepsen_like import checkers_limits as limits
from jepsen_like import checkers_refusals as refusals
from jepsen_like import checkers_workers as workers
from jepsen_like.evidence import Evidence
from jepsen_like.history import Event
from jepsen_like.model import JOB_OPS, REGISTER_OPS
from jepsen_like.verdict import Outcome, Verdict, worst

Checker: TypeAlias = Callable[[Sequence[Event], Evidence], Verdict]

# The order is that of the report: what a user fears most comes first.
CHECKERS: tuple[Checker, ...] = (
    data.outputs,
    clients.acknowledged,
    clients.linearizable,
    clients.ends,
    clients.liveness,
    attempts.no_rerun,
    attempts.losses,
    workers.leaving,
    attempts.one_winner,
    attempts.granted,
    attempts.barrier,
    attempts.fenced,
    clients.cancels,
    clients.requests,
    clients.conservation,
    clients.servers,
    refusals.honest,
    refusals.occupied,
    limits.leases,
    limits.starvation,
    limits.deadlines,
    limits.times,
    limits.keeping_up,
    limits.stepping_down,
    data.file_sets,
    data.visibility,
    data.manifests,
    data.counters,
    data.inputs,
    data.damage,
    consensus.elections,
    consensus.terms,
    consensus.votes,
    consensus.completeness,
    consensus.logs,
    consensus.states,
    consensus.views,
    data.leftovers,
    data.secrets,
    access.strangers,
    access.roles,
    access.peeks,
    access.audits,
    limits.oversized,
    limits.bounded,
)


def judge(history: Sequence[Event], evidence: Evidence | None) -> list[Verdict]:
    """One verdict a checker. Without evidence, only what a history by itself can show."""
    if evidence is None:
        known = _run(clients.understood, history, Evidence())
        if known.outcome is not Outcome.VALID:  # what it did may explain, or spoil, all the others
            return [known]
        return [_run(checker, history, Evidence()) for checker in _from_history(history)]
    verdicts = [_run(checker, history, evidence) for checker in CHECKERS]
    if evidence.config.get("faults") != "none":
        verdicts.append(_run(clients.proofs, history, evidence))
    return verdicts


def _from_history(history: Sequence[Event]) -> list[Checker]:
    """What can be checked of a history alone, as a user may have recorded one: by what it speaks of."""
    ops = {event.op for event in history}
    registers: list[Checker] = [clients.registers] if ops & REGISTER_OPS else []
    jobs: list[Checker] = [clients.linearizable, clients.requests, clients.conservation]
    return [*registers, *(jobs if ops & JOB_OPS or not registers else [])]


def overall(verdicts: Sequence[Verdict]) -> Outcome:
    """Of the whole run."""
    return worst(verdicts)


def _run(checker: Checker, history: Sequence[Event], evidence: Evidence) -> Verdict:
    try:
        return checker(history, evidence)
    except Exception as crash:  # evidence of a shape that nobody foresaw must not look like innocence
        name = checker.__name__.replace("_", " ")
        return Verdict(checker=name, outcome=Outcome.UNKNOWN, reason=f"the checker crashed: {crash!r}")
