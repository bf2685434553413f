"""Long stories of the leader: tests/scenarios/leader/*.txt. `pytest --rewrite` rewrites them.

A master alone, whose proposals are applied at once, unless the story says otherwise: `fate unknown`, `fate lost`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from master import leader_events as le
from master.ids import REDUCE, key_of
from master.leader import Leader, LeaderConfig
from master.task_table import TaskTable
from mr.rpc import job_pb2, session_pb2, table_pb2
from tests.scenarios import commands, story

STORIES = sorted((Path(__file__).parent / "leader").glob("*.txt"))


class Teller:
    """Plays the driver and the workers, and says what the leader does."""

    def __init__(self) -> None:
        self.table = TaskTable()
        self.leader = Leader(self.table, LeaderConfig(id="a", version="1.0", cluster_id="c"))
        self.term, self.index, self.now_s = 0, 0, 100.0
        self.sessions: dict[str, int] = {}
        self.fate = "applied"
        self.lines: list[str] = []
        self.held_back: list[tuple[int, list[table_pb2.Command]]] = []

    def __call__(self, text: str) -> list[str]:
        self.lines = []
        if text == "status":
            return commands.status(self.table)
        (verb, *plain), named = story.words(text)
        match verb:
            case "elect":
                self.term += 1
                self.leader = Leader(
                    self.table, LeaderConfig(id="a", version="1.0", cluster_id="c", **config(named))
                )
                self.sessions.clear()
                self.feed(le.Elected(self.term, self.now_s, 0))
            case "fate":
                self.fate = plain[0]
            case "commit":
                self.commit()
            case "tick":
                self.now_s += float(plain[0])
                self.feed(le.Tick(self.now_s, int(self.now_s * 1000)))
            case "attach":
                self.attach(plain[0], named)
            case "close":
                self.feed(le.SessionClosed(self.sessions.pop(plain[0])))
            case "finish":
                self.finish()
            case "client":
                self.client(text.partition(" ")[2])
            case _:
                self.say(text)
        return self.lines

    def feed(self, event: le.Input) -> None:
        for action in self.leader.handle(event):
            self.carry_out(action)

    def carry_out(self, action: le.Action) -> None:
        match action:
            case le.Propose(number=number, commands=said):
                self.lines.append("propose: " + ("; ".join(map(commands.brief, said)) or "nothing"))
                self.propose(number, said)
            case le.Send(session=number, orders=orders):
                worker = next((w for w, s in self.sessions.items() if s == number), f"session {number}")
                self.lines += [f"{worker} <- {order_text(order)}" for order in orders]
            case le.CloseSession(session=number):
                worker = next((w for w, s in self.sessions.items() if s == number), f"session {number}")
                self.lines.append(f"close {worker}")
            case le.LoadPlan(job=job):
                splits = [job_pb2.Split(bytes=1) for _ in range(self.table.jobs[job].spec.maps)]
                self.feed(le.PlanLoaded(job, job_pb2.SplitPlan(splits=splits)))

    def propose(self, number: int, said: list[table_pb2.Command]) -> None:
        if self.fate == "applied":
            self.apply(said)
            self.feed(le.Proposed(number, le.Outcome.APPLIED))
        elif self.fate == "late":
            self.held_back.append((number, said))
        else:
            if self.fate == "unknown":
                self.held_back.append((0, said))
            outcome = le.Outcome.NOT_APPLIED if self.fate == "refused" else le.Outcome.UNKNOWN
            self.fate = "applied"
            self.feed(le.Proposed(number, outcome))

    def commit(self) -> None:
        """What was held back is applied after all."""
        waiting, self.held_back, self.fate = self.held_back, [], "applied"
        for number, said in waiting:
            self.apply(said)
            self.feed(le.Proposed(number, le.Outcome.APPLIED))

    def client(self, text: str) -> None:
        self.apply([commands.command(self.table, text)])

    def apply(self, said: list[table_pb2.Command]) -> None:
        self.index += 1
        entry = table_pb2.Entry(term=self.term, now_ms=int(self.now_s * 1000), commands=said)
        results = self.table.apply(self.index, entry)
        self.table.check()
        self.lines += [f"  {event.text}" for events in results for event in events]
        self.feed(le.Applied(self.index, entry, results))

    def attach(self, worker: str, named: dict[str, str]) -> None:
        job = next(iter(self.table.jobs), "wc")
        attach = session_pb2.Attach(
            worker=worker,
            incarnation=named.get("life", "1"),
            slots=int(named.get("slots", "2")),
            host=worker,
            address=f"{worker}:1",
            version=named.get("version", "1.0"),
            cluster_id=named.get("cluster", "c"),
        )
        for field in ("running", "held"):
            keys = [commands.attempt(text, job).proto() for text in named.get(field, "").split(",") if text]
            getattr(attach, field).extend(keys)
        attach.jobs.extend(name for name in named.get("jobs", "").split(",") if name)
        self.sessions[worker] = number = 1 + max(self.sessions.values(), default=10 * self.term)
        self.feed(le.Attached(number, attach))
        if "silent" not in named:
            beat = session_pb2.WorkerEvent(heartbeat=session_pb2.Heartbeat())
            self.feed(le.WorkerSaid(number, beat))

    def say(self, text: str) -> None:
        """`w1 done m-0#1`, `w1 failed m-0#1 cause=…`, `w1 can't fetch m-0#1 for r-0#1`, `w1 beat`, `w1 leaves`, …"""
        (worker, verb, *plain), named = story.words(text)
        job = named.get("job", next(iter(self.table.jobs), "wc"))
        event = session_pb2.WorkerEvent()
        match verb:
            case "beat":
                event.heartbeat.SetInParent()
            case "done":
                key = commands.attempt(plain[0], job)
                event.completed.attempt.CopyFrom(key.proto())
                event.completed.result.CopyFrom(commands.result(self.table, key, named))
            case "failed":
                event.failed.attempt.CopyFrom(commands.attempt(plain[0], job).proto())
                event.failed.failure.cause = job_pb2.Cause.Value(named["cause"])
                if "source" in named:  # the map output that it found damaged
                    source = commands.attempt(named["source"], job).proto()
                    event.failed.failure.fetch_source.number = source.number
                    event.failed.failure.fetch_source.task.kind = job_pb2.MAP
                    event.failed.failure.fetch_source.task.index = source.task.index
            case "lost":
                event.output_lost.attempt.CopyFrom(commands.attempt(plain[0], job).proto())
            case "can't":
                event.fetch_failed.source.CopyFrom(commands.attempt(plain[1], job).proto())
                event.fetch_failed.reduce.CopyFrom(commands.attempt(plain[3], job).proto())
                event.fetch_failed.cause = job_pb2.Cause.Value(named.get("cause", "FETCH_FAILED"))
            case "leaves":
                event.drain.reason = "SIGTERM"
            case _:
                raise AssertionError(f"no such word: {text}")
        self.feed(le.WorkerSaid(self.sessions[worker], event))

    def finish(self) -> None:
        """Every worker does what it was given, in the order given, until nothing is left."""
        while True:
            running = sorted((w.id, k) for w in self.table.workers.values() for k in w.running)
            if not running:
                return
            before = len(self.lines)
            for worker, key in running:
                named = {"job": key.job}
                event = session_pb2.WorkerEvent()
                event.completed.attempt.CopyFrom(key.proto())
                event.completed.result.CopyFrom(commands.result(self.table, key, named))
                if key.kind == REDUCE and not self.table.jobs[key.job].steps[key.step].maps.done:
                    continue
                self.feed(le.WorkerSaid(self.sessions[worker], event))
            # Only what started matters to a story that says `finish`.
            self.lines[before:] = [
                line
                for line in self.lines[before:]
                if line.startswith("propose: assign") or " assign " in line
            ]
            self.lines[before:] = [
                part.replace("propose: ", "")
                for line in self.lines[before:]
                for part in line.split("; ")
                if "assign" in part
            ]
            self.lines[before:] = [line for line in self.lines[before:] if "<-" not in line]


def config(named: dict[str, str]) -> dict[str, object]:
    numbers: dict[str, object] = {
        name: float(named[name]) for name in ("slow_start", "reduce_share") if name in named
    }
    return numbers | {name: named[name] for name in ("policy", "placement") if name in named}


def order_text(order: session_pb2.Order) -> str:
    kind = order.WhichOneof("kind") or "nothing"
    match kind:
        case "assign":
            text = f"assign {key_of(order.assign.attempt).text}"
            return text + (" with spec" if order.assign.HasField("spec") else "")
        case "cancel" | "discard":
            return f"{kind} {key_of(getattr(order, kind).attempt).text}"
        case "settled":
            said = order.settled
            return f"settled {key_of(said.attempt).text} " + (
                "accepted" if said.accepted else f"({said.reason})"
            )
        case "outputs":
            items = [f"m-{o.map}#{o.attempt} {'lost' if o.lost else o.worker}" for o in order.outputs.outputs]
            return f"outputs from {order.outputs.from_sequence}: " + ", ".join(items)
        case "forget":
            return f"forget {order.forget.job}"
        case "refuse":
            return f"refuse {order.refuse.code}: {order.refuse.reason}"
        case "drain":
            return "you may leave" if order.drain.drain else "stay"
        case _:
            return kind


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_story(path: Path, rewrite: bool) -> None:
    story.play(path, Teller(), rewrite=rewrite)
