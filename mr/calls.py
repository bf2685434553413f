"""One call to the cluster, retried under the same request until it is answered or patience ends.

The law: a write carries a request id chosen before its first try, so that repeating it is harmless; only
errors that a repeat can cure are repeated (NotLeader, Unavailable, CommitUnknown), with caps and jitter.
Leader hints are followed; a master that does not answer is left for the next one.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import tenacity

from mr import channel, errors
from mr.settings import Tls

if TYPE_CHECKING:
    import grpc

REPEATABLE = (errors.NotLeader, errors.Unavailable, errors.CommitUnknown)
TRY_S = 2.0  # the first try of a call at each master: a stopped process neither answers nor refuses
WRITES = frozenset({"Submit", "Cancel", "Retry", "SetWorker", "KillAttempt", "Transfer"})
_SLOWEST_UPLOAD = 2 * 2**20  # bytes a second that a try may assume
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.03, 0.7  # an election takes less than a second


class Masters:
    """The masters of one cluster, as a client sees them. Safe to share between threads."""

    def __init__(self, addresses: Sequence[str], tls: Tls, *, timeout: float = 10.0, token: str = "") -> None:
        self.addresses = [channel.full_address(address) for address in addresses]
        self.timeout = timeout  # seconds a call may take, all tries together
        self.tls = tls
        self._token = token
        self._turn = itertools.cycle(self.addresses)
        self._target = next(self._turn)
        self._channels: dict[str, grpc.Channel] = {}
        self._lock = threading.Lock()

    @property
    def target(self) -> str:
        """Whom the next call asks first: the leader, as far as we know."""
        return self._target

    def call(self, method: str, request: Any, *, timeout: float | None = None) -> Any:
        """The answer of `method` ("Submit", "Blobs.Have"), repeated for up to `timeout` seconds in all.

        Raises what the cluster said (NotFound, Rejected, NotAllowed, Usage), or after the timeout
        Unavailable, or CommitUnknown when a try may have taken effect.
        """
        return self.repeat(
            lambda each_s: self._unary(method, request, each_s), timeout=timeout, write=method in WRITES
        )

    def repeat(
        self, attempt: Callable[[float], Any], *, timeout: float | None = None, write: bool = False
    ) -> Any:
        """Runs `attempt(seconds it may take)` until it raises nothing that a repeat can cure.

        Each round of the masters gives a try twice the time of the round before. A `write` that may have taken
        effect ends as CommitUnknown, everything else as Unavailable.
        """
        patience = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + patience
        policy = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(REPEATABLE),
            wait=_pause,
            stop=tenacity.stop_after_delay(patience),
            sleep=lambda pause: time.sleep(max(0.0, min(pause, deadline - time.monotonic()))),
            reraise=True,
        )
        maybe_applied = False
        heard: dict[str, errors.Error] = {}  # what masters themselves said, by address
        try:
            for one in policy:
                with one:
                    try:
                        asked = self._target
                        patience_now = TRY_S * 2 ** (
                            (one.retry_state.attempt_number - 1) // len(self.addresses)
                        )
                        return attempt(max(0.05, min(patience_now, deadline - time.monotonic())))
                    except REPEATABLE as error:
                        maybe_applied = maybe_applied or (write and error.maybe_applied)
                        if error.answered:
                            heard[asked] = error
                        self._learn(error)
                        raise
        except REPEATABLE as error:
            raise self._final(error, patience, maybe_applied, heard) from None
        raise AssertionError("the policy ends by an answer or an error")

    def stream(self, method: str, request: Any, *, timeout: float | None = None) -> Iterator[Any]:
        """The answers of a streaming call, one try: a caller knows from where to go on after an error.

        Raises WaitTimeout when `timeout` seconds have passed.
        """
        import grpc

        call = self._method(method)(request, timeout=timeout, metadata=self._identity())
        try:
            yield from call
        except grpc.RpcError as failure:
            error = errors.from_rpc(failure)
            if failure.code() == grpc.StatusCode.DEADLINE_EXCEEDED and not isinstance(
                error, errors.DeadlineExceeded
            ):
                raise errors.WaitTimeout(f"no end within {timeout} s") from None
            self._learn(error)
            raise error from None
        finally:
            call.cancel()

    def gather(self, method: str, request: Any) -> list[Any]:
        """All answers of a streaming read that ends by itself, repeated as a whole."""

        def attempt(seconds: float) -> list[Any]:
            try:
                return list(self.stream(method, request, timeout=seconds))
            except errors.WaitTimeout as error:
                raise errors.Unavailable(str(error)) from None

        found: list[Any] = self.repeat(attempt)
        return found

    def upload(self, method: str, chunks: Callable[[], Iterator[Any]], *, size: int) -> Any:
        """A call that streams `size` bytes as `chunks()` up; every try begins anew."""
        each_s = TRY_S + size / _SLOWEST_UPLOAD
        return self.repeat(
            lambda _: self._unary(method, chunks(), each_s), timeout=max(self.timeout, 2 * each_s)
        )

    def close(self) -> None:
        """Closes every channel."""
        with self._lock:
            channels, self._channels = self._channels, {}
        for one in channels.values():
            one.close()

    def _unary(self, method: str, request: Any, timeout: float) -> Any:
        import grpc

        try:
            return self._method(method)(request, timeout=timeout, metadata=self._identity())
        except grpc.RpcError as failure:
            raise errors.from_rpc(failure) from None

    def _method(self, method: str) -> Any:
        from mr.rpc import cluster_pb2_grpc

        service, _, name = method.rpartition(".")
        stubs = {"": cluster_pb2_grpc.ClusterStub, "Blobs": cluster_pb2_grpc.BlobsStub}
        with self._lock:
            address = self._target
            if address not in self._channels:
                self._channels[address] = channel.open_channel(address, self.tls)
            return getattr(stubs[service](self._channels[address]), name)

    @functools.cached_property
    def _plaintext(self) -> bool:
        return channel.client_files(self.tls) is None

    def _identity(self) -> list[tuple[str, str]]:
        """A token goes to masters that proved who they are, a mere claim of a name to those of this machine."""
        if not self._plaintext:
            return [("authorization", f"Bearer {self._token}")] if self._token else []
        try:
            return [("mr-user", getpass.getuser())]
        except (OSError, KeyError):  # a container without a name for its user
            return []

    def _learn(self, error: errors.Error) -> None:
        """Where to ask next: the leader that was named, else the next master in turn."""
        with self._lock:
            if isinstance(error, errors.NotLeader) and error.address:
                self._target = channel.full_address(error.address)
            elif isinstance(error, REPEATABLE):
                self._target = next(self._turn)

    def _final(
        self, error: errors.Error, patience: float, maybe_applied: bool, heard: dict[str, errors.Error]
    ) -> errors.Error:
        if maybe_applied:
            return errors.CommitUnknown(
                f"no definite answer within {patience:g} s, so the request may yet take effect; the last try: {error}",
                next="ask again under the same id: it is never done twice",
            )
        for address in self.addresses:
            with contextlib.suppress(errors.Usage):
                refused = channel.why_unreachable(address, self.tls)
                if refused:
                    return refused
        names = ", ".join(self.addresses)
        if heard:
            why = {str(said) for said in heard.values() if not isinstance(said, errors.NotLeader)}
            state = f"cannot serve this: {', '.join(sorted(why))}" if why else "have no leader"
            return errors.Unavailable(
                f"the masters {state} (asked {names} for {patience:g} s;"
                f" {len(heard)} of {len(self.addresses)} answered)",
                next="a majority must be up: see `mr masters`",
            )
        return errors.Unavailable(
            f"no master answers at {names} (tried for {patience:g} s)",
            next="say where they are with --masters or MR_MASTERS, or start a cluster here with `mr dev`",
        )


def request_id() -> str:
    """A new request id: chosen once, sent with every try."""
    return secrets.token_hex(12)


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next try: none after the first hint to a leader, else growing with full jitter."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, errors.NotLeader) and error.address and state.attempt_number < 3:
        return 0.0
    grow = tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S)
    return FIRST_PAUSE_S / 3 + grow(state)
