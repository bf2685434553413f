"""Masters that say what a test tells them to: real gRPC on loopback, no cluster behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

from mr import errors
from mr.rpc import cluster_pb2 as pb
from mr.rpc import cluster_pb2_grpc as services
from mr.rpc import table_pb2

Script = Callable[[str, Any], Any]


class FakeMaster(services.ClusterServicer, services.BlobsServicer):
    """Answers every call by `script(method, request)`: a reply, an iterable of replies, or an error to raise."""

    def __init__(self, script: Script | None = None) -> None:
        self.script: Script = script or (lambda method, request: errors.NotFound("nothing here"))
        self.calls: list[tuple[str, Any]] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        services.add_ClusterServicer_to_server(self, self._server)
        services.add_BlobsServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def asked(self, method: str) -> list[Any]:
        return [request for name, request in self.calls if name == method]

    def _answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.calls.append((method, request))
        said = self.script(method, request)
        if isinstance(said, errors.Error):
            status = errors.to_status(said)
            context.set_trailing_metadata(status.metadata)
            context.abort(status.code, status.details)
        return said


def _unary(method: str) -> Any:
    def call(self: FakeMaster, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer(method, request, context)

    return call


def _stream(method: str) -> Any:
    def call(self: FakeMaster, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for item in self._answer(method, request, context):
            if isinstance(item, errors.Error):
                status = errors.to_status(item)
                context.set_trailing_metadata(status.metadata)
                context.abort(status.code, status.details)
            yield item

    return call


for _name in (
    "Submit",
    "Cancel",
    "Retry",
    "GetJob",
    "ListJobs",
    "ListTasks",
    "Explain",
    "ListWorkers",
    "SetWorker",
    "ListMasters",
):
    setattr(FakeMaster, _name, _unary(_name))
for _name in ("Watch", "ReadLogs"):
    setattr(FakeMaster, _name, _stream(_name))


def _put(self: FakeMaster, chunks: Iterator[pb.BlobChunk], context: grpc.ServicerContext) -> Any:
    return self._answer("Put", b"".join(chunk.data for chunk in chunks), context)


FakeMaster.Put = _put  # type: ignore[method-assign]


def job(state: str, id: str = "wc-7f3k2", **fields: Any) -> pb.JobStatus:
    """A job in `state`, term 1, leader a."""
    status = pb.JobStatus(
        id=id, state=table_pb2.JobState.Value(state), term=1, leader="a", name="wc", output="/out"
    )
    for name, value in fields.items():
        if isinstance(value, dict):
            getattr(status, name).update(value)
        else:
            setattr(status, name, value)
    return status


def event(index: int, type: str = "TaskCompleted", status: pb.JobStatus | None = None) -> pb.JobEvent:
    """One event of the job."""
    made = pb.JobEvent(index=index, type=type, text=f"{type} at {index}")
    if status is not None:
        made.status.CopyFrom(status)
    return made
