"""Who calls, what they may do, and how an error leaves: one interceptor before every servicer.

The law: a method that `VERBS` does not name for the caller's role is refused. The role and the name come from
the client certificate alone (its OU and CN). On a plaintext loopback there is no certificate: everybody is
then every role, and the name that the caller claims is kept as a claim (S0-21).

Every call that changes state leaves one audit line with the caller's identity (S7).
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from consensus import replica
from mr import errors, tls

if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]

log = logging.getLogger("mr.master")
audit = logging.getLogger("mr.audit")

_CLIENT = frozenset({"client"})
_MASTER = frozenset({"master"})
_WORKER = frozenset({"worker"})

# Which roles may call what. A master acts as a client of other masters when a follower's page asks the
# leader.
VERBS: Mapping[str, frozenset[str]] = {
    **{
        f"/mr.Cluster/{method}": _CLIENT | _MASTER
        for method in (
            "GetJob",
            "ListJobs",
            "ListTasks",
            "ListWorkers",
            "ListMasters",
            "Explain",
            "Watch",
            "ReadLogs",
        )
    },
    **{
        f"/mr.Cluster/{method}": _CLIENT
        for method in (
            "Submit",
            "Cancel",
            "Retry",
            "SetWorker",
            "Transfer",
            "KillAttempt",
            "SaveSnapshot",
            "RestoreSnapshot",
        )
    },
    "/mr.Blobs/Put": _CLIENT | _MASTER,
    "/mr.Blobs/Get": _CLIENT | _MASTER | _WORKER,
    "/mr.Blobs/Have": _CLIENT | _MASTER,
    "/mr.Sessions/Session": _WORKER,
}
CHANGES = frozenset(
    f"/mr.{method}"
    for method in (
        "Cluster/Submit",
        "Cluster/Cancel",
        "Cluster/Retry",
        "Cluster/SetWorker",
        "Cluster/Transfer",
        "Cluster/KillAttempt",
        "Cluster/RestoreSnapshot",
        "Blobs/Put",
    )
)
# Served to whoever the transport lets in: they change nothing and reveal nothing of the state.
OPEN = ("/grpc.health.v1.Health/", "/grpc.reflection.")

USER_KEY = "mr-user"  # metadata: the caller's own claim of a name, on plaintext only


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls. `roles` holds one role with a certificate, all of them without."""

    name: str
    roles: frozenset[str]
    verified: bool

    def __str__(self) -> str:
        return self.name if self.verified else f"{self.name} (unverified)"


def identify(context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
    """The caller, by its certificate, or by its claim on a plaintext connection."""
    certificates = context.auth_context().get("x509_pem_cert")
    if certificates:
        return _from_certificate(next(iter(certificates)))
    claimed = next((value for key, value in context.invocation_metadata() or () if key == USER_KEY), "")
    name = "".join(c for c in str(claimed) if c.isprintable())[:64]
    return Identity(name or "anonymous", _CLIENT | _MASTER | _WORKER, verified=False)


@functools.lru_cache(maxsize=1024)
def _from_certificate(pem: bytes) -> Identity:
    role, name = tls.certificate_role(pem) or ("", "a stranger")
    return Identity(name, frozenset({role} - {""}), verified=True)


def raised(error: Exception, address_of: Callable[[str | None], str | None]) -> errors.Error:
    """What `error` is to a caller: one table from consensus' errors to ours."""
    match error:
        case errors.Error():
            return error
        case replica.NotLeader(leader=leader):
            return errors.NotLeader(leader, address_of(leader))
        case replica.CommitUnknown():
            return errors.CommitUnknown(
                str(error) or "not known to be committed: retry under the same request id"
            )
        case replica.ConsensusError():
            return errors.Unavailable(str(error) or "no leader with a majority", next="see `mr masters`")
        case _:
            log.error("a call failed: a bug of ours", exc_info=error)
            return errors.Error(f"internal error on the master: {type(error).__name__}: {error}"[:500])


class Guard(grpc.aio.ServerInterceptor):
    """Lets in by `VERBS`, turns errors into statuses, writes the audit line."""

    def __init__(self, address_of: Callable[[str | None], str | None]) -> None:
        self._address_of = address_of

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wraps the handler of every method that is not open to all."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method.startswith(OPEN):
            return handler
        behaviour, make = _parts(handler)
        wrapped = (
            self._stream(method, behaviour)
            if inspect.isasyncgenfunction(behaviour)
            else self._single(method, behaviour)
        )
        guarded: Handler = make(wrapped, handler.request_deserializer, handler.response_serializer)
        return guarded

    def _single(self, method: str, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            caller = identify(context)
            try:
                admit(method, caller)
                answer = await behaviour(request, context)
            except Exception as error:
                await self._leave(method, caller, request, error, context)
            _record(method, caller, request, "ok")
            return answer

        return call

    def _stream(
        self, method: str, behaviour: Callable[..., AsyncIterator[Any]]
    ) -> Callable[..., AsyncIterator[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            caller = identify(context)
            try:
                admit(method, caller)
                async for answer in behaviour(request, context):
                    yield answer
            except Exception as error:
                await self._leave(method, caller, request, error, context)
            _record(method, caller, request, "ended")

        return call

    async def _leave(
        self,
        method: str,
        caller: Identity,
        request: Any,
        error: Exception,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        ours = raised(error, self._address_of)
        _record(method, caller, request, f"{type(ours).__name__}: {ours}")
        status = errors.to_status(ours)
        await context.abort(status.code, status.details, status.metadata)


def _parts(handler: Handler) -> tuple[Any, Any]:
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return handler.unary_unary, grpc.unary_unary_rpc_method_handler
        case False, True:
            return handler.unary_stream, grpc.unary_stream_rpc_method_handler
        case True, False:
            return handler.stream_unary, grpc.stream_unary_rpc_method_handler
        case _:
            return handler.stream_stream, grpc.stream_stream_rpc_method_handler


def admit(method: str, caller: Identity) -> None:
    """Raises NotAllowed unless `VERBS` names the method for the caller's role."""
    if not VERBS.get(method, frozenset()) & caller.roles:
        role = "/".join(sorted(caller.roles)) or "no role"
        raise errors.NotAllowed(f"{caller.name} ({role}) may not call {method.rpartition('/')[2]}")


def _record(method: str, caller: Identity, request: Any, outcome: str) -> None:
    if method not in CHANGES:
        return
    subject = {
        name: value
        for name in ("job", "worker", "task", "to", "request_id")
        if isinstance(value := getattr(request, name, None), str) and value
    }
    if hasattr(request, "spec"):
        subject["job"] = request.spec.job_id
    audit.info(
        "%s by %s: %s",
        method.rpartition("/")[2],
        caller,
        outcome,
        extra={"method": method, "identity": str(caller), **subject, "outcome": outcome},
    )
