"""Who may do what: S1 (nobody without a certificate), S2 (a role does its verbs), S4 (a task reads no key), S7 (every
change has a name)."""

from __future__ import annotations

from collections.abc import Sequence

from jepsen_like.checkers_consensus import verdict
from jepsen_like.evidence import Evidence
from jepsen_like.history import Event
from jepsen_like.verdict import Verdict

STRANGERS = frozenset({"plaintext", "no certificate", "another CA"})
# A server that says one of these has looked at nothing of the request.
SHUT = frozenset({"UNAVAILABLE", "UNAUTHENTICATED", "DEADLINE_EXCEEDED"})
REFUSED = frozenset({"UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED"})
# Of a role whose certificate the transport knows: no such method, and the handshake of masters among themselves.
NOT_HERE = frozenset({"UNIMPLEMENTED", "FAILED_PRECONDITION"})


def strangers(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """S1: without a certificate of this cluster no call gets past the transport, on any port."""
    asked = [p for p in evidence.probes if p.who in STRANGERS]
    wrong = [
        f"{p.server} ({p.port}) answered {p.method} with {p.answer} to {p.who}"
        for p in asked
        if p.answer not in SHUT
    ]
    counted = {"probes": len(asked), "ports": len({(p.server, p.port) for p in asked})}
    return verdict("strangers stay outside", ("S1",), wrong, counted, needs="probes")


def roles(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """S2: a certificate's role does its verbs and no other; and a user ends no other user's job, nor sees its
    environment (S5)."""
    asked = [p for p in evidence.probes if p.who not in STRANGERS and not p.bytes]
    wrong = [
        f"{p.server} ({p.port}) answered {p.method} with {p.answer} to a {p.who}"
        for p in asked
        if p.answer not in REFUSED | NOT_HERE
    ]
    tried = [e for e in history if e.op == "trespass" and e.kind == "ok"]
    jobs = {e.id: e.value["job"] for e in history if e.op == "trespass" and e.kind == "invoke"}
    wrong += [
        f"{jobs[e.id]}: a user who does not own it asked for its end, and was answered"
        f" {e.value['refused'] or 'that it is done'}"
        for e in tried
        if e.value["refused"] not in {"NotAllowed", "PUBLISHING"}
    ]
    wrong += [
        f"{jobs[e.id]}: {', '.join(e.value['shown'])} showed its environment to a user who does not own it"
        for e in tried
        if e.value.get("shown")
    ]
    counts = {"probes": len(asked), "trespasses": len(tried)}
    return verdict("roles keep to their verbs", ("S2",), wrong, counts, needs="probes")


def peeks(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """S4: a task that looks for keys and for the servers' environment finds nothing, where the worker can hide them."""
    looked = [peek for peek in evidence.peeks if peek.isolation != "none"]
    wrong = [f"{p.job} {p.task} read {what}" for p in looked for what in p.found]
    bare = len(evidence.peeks) - len(looked)
    reason = f"{bare} tasks ran where this machine allows no isolation" if bare else ""
    return verdict("tasks read no keys", ("S4",), wrong, {"tasks that looked": len(looked)}, reason=reason)


def audits(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """S7: every submit and cancel that was acknowledged stands in a master's audit log, with the caller's name."""
    done = {(a.method, a.job) for a in evidence.audits if a.outcome == "ok"}
    calls = {e.id: e.value for e in history if e.kind == "invoke" and e.op in {"submit", "cancel"}}
    wrong, counted = [], 0
    for event in history:
        if event.kind != "ok" or event.id not in calls:
            continue
        job, answer = calls[event.id]["job"], event.value
        method = event.op.capitalize()
        if answer.get("existed") or (method == "Cancel" and answer.get("state") != "CANCELLED"):
            continue
        counted += 1
        if (method, job) not in done:
            wrong.append(
                f"{method} of {job} was answered at {event.t / 1e9:.3f} s, and no audit log has a line of it"
            )
    wrong += [
        f"{a.master}: {a.method} of {a.job or 'something'} was done by {a.identity or 'nobody'}"
        for a in evidence.audits
        if not a.identity or "unverified" in a.identity
    ]
    counts = {"calls": counted, "lines": len(evidence.audits)}
    return verdict("changes have names", ("S7",), wrong, counts, needs="calls")
