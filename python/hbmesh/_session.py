"""Session: a client's connection, and how its calls go. The base of :class:`hbmesh.Client`, which has the calls.

Thread rule: any thread, several at once. Calls release the interpreter's lock while they wait. A session made before a
fork raises NotSupportedError in the child.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
import weakref
from collections import deque
from typing import Any, Callable, Deque, List, Optional, Sequence, Tuple, Type, TypeVar

from . import _native, config
from ._address import format_address, parse_host
from ._batch import CallBatch, check_uint, encoded_text
from .errors import StatusCode, error_of
from .futures import FUTURE_TIMEOUT_MS_MAX, STOP_GRACE_MS, TransferFuture, finish, is_interruptible
from .results import BatchResult

R = TypeVar("R", bound=BatchResult)
S = TypeVar("S", bound="Session")

# What the library takes where an option is 0.
_CONNECT_TIMEOUT_MS, _FLOOR_BYTES_PER_SECOND = 9_000, 100_000_000
# Of an address and the zero after it, as hbmesh.h says.
_ADDRESS_BYTES_MAX = 264


class Session:
    """See :class:`hbmesh.Client`."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        token: str = "",
        connect_timeout_ms: int = 9_000,
        request_timeout_ms: int = 0,
        subscribe_timeout_ms: int = 20_000,
        subscribe_many_timeout_ms: int = 60_000,
        floor_bytes_per_second: int = 100_000_000,
        spin_micros: int = 50,
    ) -> None:
        encoded_token = encoded_text(token, "token")
        port = check_uint(port, "port", 65_535)
        if encoded_text(host, "host") == b"" or port == 0:
            raise ValueError(f"host {host!r} and port {port} name no worker: give both, as in 127.0.0.1 and 31501")
        self._handle: Optional[Any] = None
        self._kept = KeptCalls()
        self._api = _native.load()
        self._generation = _native.generation()
        #: ``IP:PORT`` of the worker; a host's name is looked up when the client connects.
        self.address = format_address(parse_host(host), port)
        options = self._options = _native.made(_native.ClientOptions)
        options.token = encoded_token
        options.connect_timeout_ms = check_uint(connect_timeout_ms, "connect_timeout_ms")
        options.request_timeout_ms = check_uint(request_timeout_ms, "request_timeout_ms")
        options.subscribe_timeout_ms = check_uint(subscribe_timeout_ms, "subscribe_timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        options.subscribe_many_ms = check_uint(
            subscribe_many_timeout_ms, "subscribe_many_timeout_ms", FUTURE_TIMEOUT_MS_MAX
        )
        options.spin_micros = check_uint(spin_micros, "spin_micros")
        options.floor_bytes_per_second = check_uint(floor_bytes_per_second, "floor_bytes_per_second", 2**64 - 1)
        options.worker_address = self.address.encode()
        handle = ctypes.c_void_p()
        self._check(self._api.client_create(ctypes.byref(options), ctypes.byref(handle)))
        self._handle = handle
        _open_clients.add(self)

    @classmethod
    def from_environment(cls: Type[S], **options: Any) -> S:
        """A client of the worker that DS_WORKER_ADDR or YR_CONFIG_PATH names; see :mod:`hbmesh.config`."""
        found = config.from_environment()
        options.setdefault("connect_timeout_ms", found.connect_timeout_ms)
        options.setdefault("request_timeout_ms", found.request_timeout_ms)
        return cls(found.host, found.port, **options)

    def connect(self: S) -> S:
        """Connects; again, after the worker was lost. Does nothing while connected.

        Raises:
            NoWorkerError: nothing serves the address on this machine, or the host's name leads nowhere.
            NotAuthorizedError: another user serves it, or the token is refused.
            DeadlineExceededError: no answer in time.
            ShuttingDownError: the client was closed.
            HbmeshError: DATA_INCONSISTENCY, the worker is of another release.
        """
        self._check(self._api.client_init(self._usable()))
        address = ctypes.create_string_buffer(_ADDRESS_BYTES_MAX)
        self._check(self._api.client_address(self._handle, address, _ADDRESS_BYTES_MAX))
        self.address = address.value.decode()
        return self

    def close(self) -> None:
        """Ends every call and future with SHUTTING_DOWN. Returns once the worker no longer uses their device memory.
        One that takes no message is given up after 2 seconds, one that lives has as long as bytes that move may take;
        their messages then say that the memory may be in use. May be called again."""
        if self._handle and self._generation == _native.generation():
            self._api.client_close(self._handle)
            self._kept.look_at_all(self._api)
        _open_clients.discard(self)

    # ---- Inside ------------------------------------------------------------------------------------------------------

    def _usable(self) -> Any:
        if self._generation != _native.generation():
            raise _native.fork_error("client", self.address)
        self._kept.look(self._api)
        return self._handle

    def _check(self, status: int, keys: Sequence[str] = ()) -> None:
        if status != StatusCode.OK:
            text, number = self._api.last_text().replace("hbmesh_client_init", "connect()"), self._api.last_key()
            key = keys[number - 1] if 0 < number <= len(keys) else None
            raise error_of(status, text, key=key, node=self.address)

    def _call(self, kind: Type[R], function: Callable[..., int], batch: CallBatch, *arguments: Any) -> R:
        out = ctypes.c_void_p()
        status = function(self._usable(), ctypes.byref(batch.struct), *arguments, ctypes.byref(out))
        self._check(status, batch.names)
        return kind(self._api, out, batch.names, self.address)

    def _future(
        self, kind: Type[R], function: Callable[..., int], batch: CallBatch, *arguments: Any, wait_ms: int = 0
    ) -> "TransferFuture[R]":
        """A future for the whole call. `wait_ms` is what the call itself was told to wait."""
        out = ctypes.c_void_p()
        status = function(self._usable(), ctypes.byref(batch.struct), *arguments, ctypes.byref(out))
        self._check(status, batch.names)
        limit_ms = self._limit_ms(batch, wait_ms)
        return TransferFuture(self, out, batch.names, kind, limit_ms, batch.owners, self._stop_ms(batch))

    def _stop_ms(self, batch: CallBatch) -> int:
        """How long the worker may take to confirm that the call, or one of its futures, stopped."""
        return STOP_GRACE_MS + self._bytes_ms(batch)

    def _limit_ms(self, batch: CallBatch, wait_ms: int) -> int:
        """How long the call may take: as long as the library lets one that blocks."""
        options = self._options
        usual = options.request_timeout_ms or options.connect_timeout_ms or _CONNECT_TIMEOUT_MS
        return usual + wait_ms + self._bytes_ms(batch)

    def _bytes_ms(self, batch: CallBatch) -> int:
        """How long the slowest transfer of the call's bytes takes that is still waited for."""
        return batch.total_bytes * 1000 // (self._options.floor_bytes_per_second or _FLOOR_BYTES_PER_SECOND)

    def _call_that_waits(
        self,
        kind: Type[R],
        functions: "Tuple[Callable[..., int], Callable[..., int]]",
        batch: CallBatch,
        wait_ms: int,
        *arguments: Any,
    ) -> R:
        """A call that may wait long for keys, by its blocking function and the one with a future. A thread that gets
        signals waits by the latter, which Ctrl-C ends."""
        blocking, later = functions
        if wait_ms == 0 or not is_interruptible():
            return self._call(kind, blocking, batch, wait_ms, *arguments)
        return finish(self._future(kind, later, batch, wait_ms, *arguments, wait_ms=wait_ms))

    def _futures(
        self, function: Callable[..., int], batch: CallBatch, *arguments: Any
    ) -> "List[TransferFuture[BatchResult]]":
        out = (ctypes.c_void_p * len(batch.names))()
        status = function(self._usable(), ctypes.byref(batch.struct), *arguments, out)
        self._check(status, batch.names)
        stop_ms, owners = self._stop_ms(batch), batch.owners
        by_key = len(owners) == len(batch.names)  # else each keeps the memory of all
        return [
            TransferFuture(self, handle, [key], BatchResult, None, owners[i : i + 1] if by_key else owners, stop_ms)
            for i, (handle, key) in enumerate(zip(out, batch.names))
        ]

    def _forget(self, handle: Any, owners: Sequence[Any]) -> None:
        """Nobody has a future any more. The call may still be under way, and then keeps its memory."""
        self._kept.add(self._api, handle, owners)

    def __enter__(self: S) -> S:
        return self.connect()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<hbmesh.{type(self).__name__} of {self.address}>"

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle and self._generation == _native.generation():
            self._api.client_free(handle)
            self._kept.look_at_all(self._api)  # every call has ended


class KeptCalls:
    """Calls whose futures were forgotten before their end, and what keeps their memory. Each call that begins looks at
    some of them in turn, however many there are."""

    AT_ONCE = 16

    def __init__(self) -> None:
        self._calls: Deque[Tuple[Any, Sequence[Any]]] = deque()
        # Futures may be collected while this very thread is in here.
        self._lock = threading.RLock()

    def add(self, api: _native.Api, handle: Any, owners: Sequence[Any]) -> None:
        if not owners or api.future_done(handle):
            api.future_free(handle)
            return
        with self._lock:
            self._calls.append((handle, owners))

    def look(self, api: _native.Api) -> None:
        """Lets go of those of the next few that have ended."""
        if self._calls:
            self._look(api, self.AT_ONCE)

    def look_at_all(self, api: _native.Api) -> None:
        """Lets go of all that have ended."""
        self._look(api, len(self._calls))

    def _look(self, api: _native.Api, most: int) -> None:
        with self._lock:
            for _ in range(min(most, len(self._calls))):
                if not self._calls:
                    return  # what was let go of led here again, on this thread
                self.add(api, *self._calls.popleft())


# Closed when the interpreter exits, so that nothing is cut off in the middle.
_open_clients: "weakref.WeakSet[Session]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for session in list(_open_clients):
        session.close()
