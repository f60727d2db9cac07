"""Futures: the end of one key of a publication or subscription, or of a whole call."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, Optional, Sequence, Type, TypeVar

from . import _native
from ._batch import check_uint
from .errors import HbmeshError, StatusCode, error_of
from .results import BatchResult

if TYPE_CHECKING:
    from ._session import Session

logger = logging.getLogger(__name__)

FUTURE_TIMEOUT_MS_MAX = 1_800_000
# How long the worker may take to confirm that a call was stopped, the time for its bytes apart: those that move at that
# moment may have to come to their end.
STOP_GRACE_MS = 2_000

R = TypeVar("R", bound=BatchResult)


class TransferFuture(Generic[R]):
    """Something under way. Every future ends: with its transfer, by :meth:`cancel`, with the peer, the worker or the
    client. Device memory of the call must stay allocated until then. The tensors of blob lists that were made by
    :meth:`DeviceBlobList.of` do: they are kept until the end, also where the future is forgotten before, which doesn't
    end the transfer.

    Attributes:
        keys: the key of a publication or subscription, or all keys of a call.
        limit_ms: how long a call is waited for that gives no future; None: as long as its caller wants.
        stop_ms: how long the worker may take to confirm that it stopped.
    """

    def __init__(
        self,
        client: "Session",
        handle: Any,
        keys: Sequence[str],
        kind: Type[R],
        limit_ms: Optional[int] = None,
        owners: Sequence[Any] = (),
        stop_ms: int = STOP_GRACE_MS,
    ) -> None:
        self.keys = list(keys)
        self.limit_ms = limit_ms
        self.stop_ms = stop_ms
        self._client = client
        self._handle = handle
        self._kind = kind
        self._owners = owners
        self._generation = _native.generation()

    @property
    def key(self) -> str:
        """The first key; the only one where futures are by key."""
        return self.keys[0]

    @property
    def done(self) -> bool:
        """Has it ended?"""
        return bool(self._api().future_done(self._handle))

    def get(self, timeout_ms: int = 60_000) -> R:
        """Waits for the end.

        Args:
            timeout_ms: 0 to 1,800,000; 0 does not wait.

        Returns:
            A result of the future's keys. Of a whole call it may have keys that failed.

        Raises:
            HbmeshError: what the future's key, or the call, failed with.
            FutureTimeoutError: it has not ended; nothing was stopped, so get it again.
            ValueError: timeout out of range.
        """
        timeout_ms = check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        if not self.wait(timeout_ms):
            raise self.still_open(timeout_ms)
        return self.result()

    def wait(self, timeout_ms: int) -> bool:
        """Has it ended, at the latest after this time? On the main thread Ctrl-C ends the wait, not the transfer."""
        api = self._api()
        if api.future_done(self._handle):
            return True
        if timeout_ms == 0:
            return False
        ended = _descriptor() if is_interruptible() else None
        if ended is None:
            status = api.future_get(self._handle, timeout_ms, None)
            return bool(status != StatusCode.FUTURE_TIMEOUT or api.future_done(self._handle))
        # Calls into the library see no signal; poll() lets Python handle them.
        end = time.monotonic() + timeout_ms / 1000
        try:
            self.notify(ended)
            poller = select.poll()
            poller.register(ended, select.POLLIN)
            left = timeout_ms / 1000
            # A future writes to one descriptor: a signal's handler that waits for it too takes it away, hence the look.
            while left > 0 and not poller.poll(math.ceil(min(left, 1) * 1000)) and not api.future_done(self._handle):
                left = end - time.monotonic()
        finally:
            self.notify(-1)
            os.close(ended)
        return bool(api.future_done(self._handle))

    def result(self) -> R:
        """What it ended with. Raises as :meth:`get`."""
        api = self._api()
        out = ctypes.c_void_p()
        status = api.future_get(self._handle, 0, ctypes.byref(out))
        if status != StatusCode.OK:
            text = api.last_text()
            if out:
                api.result_free(out)
            key = self.keys[0] if len(self.keys) == 1 else None
            raise error_of(status, text, key=key, node=self._client.address)
        result = self._kind(api, out, self.keys, self._client.address)
        if all(code == StatusCode.RPC_CANCELLED for code in result.codes):
            result.raise_for_failures()  # nothing of the call was done
        return result

    def still_open(self, timeout_ms: int) -> HbmeshError:
        """The error of a wait that was too short."""
        what = f"key {self.keys[0]!r}" if len(self.keys) == 1 else f"a call of {len(self.keys)} keys"
        text = f"waited {timeout_ms} ms for {what}, which goes on: wait again, or cancel it"
        key = self.keys[0] if len(self.keys) == 1 else None
        return error_of(StatusCode.FUTURE_TIMEOUT, text, key=key, node=self._client.address)

    def expired(self) -> HbmeshError:
        """The error of a call that was not answered within `limit_ms`."""
        text = (
            f"waited {self.limit_ms} ms for worker {self._client.address} to answer: look at the worker's log, or give "
            "a longer request timeout"
        )
        return error_of(StatusCode.RPC_DEADLINE_EXCEEDED, text, node=self._client.address)

    def unconfirmed(self, why: str) -> HbmeshError:
        """The error of a call that was asked to stop, of which the worker says nothing."""
        text = (
            f"{why}. The sidecar did not confirm within {self.stop_ms} ms that it stopped: don't reuse the device "
            "memory of this call before the client is closed"
        )
        return error_of(StatusCode.WORKER_TIMEOUT, text, node=self._client.address)

    def cancel(self) -> None:
        """Asks for the end of this future alone: RPC_CANCELLED, unless it ends otherwise first. Its memory may be in
        use until it has ended."""
        self._api().future_cancel(self._handle)

    def keep(self, owner: Any) -> None:
        """Keeps something, such as memory of the call, until its end."""
        self._owners = (*self._owners, owner)

    def notify(self, event_fd: int) -> None:
        """Adds 1 to an eventfd when the future ends, at once if it has. The descriptor stays open until then, or until
        -1 took it back."""
        status = self._api().future_notify(self._handle, event_fd)
        if status != StatusCode.OK:
            raise error_of(status, self._api().last_text(), node=self._client.address)

    def _api(self) -> _native.Api:
        if self._generation != _native.generation():
            raise _native.fork_error("future", self._client.address)
        return self._client._api

    def __repr__(self) -> str:
        names = self.keys[0] if len(self.keys) == 1 else f"{len(self.keys)} keys"
        return f"<TransferFuture of {names}>"

    def __del__(self) -> None:
        handle: Optional[Any] = getattr(self, "_handle", None)
        if handle and self._generation == _native.generation():
            self._client._forget(handle, self._owners)


def _descriptor() -> Optional[int]:
    """An eventfd, or None where the process has no descriptor left: waiting goes on without it."""
    try:
        return _native.eventfd()
    except OSError:
        return None


def is_interruptible() -> bool:
    """Does this thread get Python's signals?"""
    return threading.current_thread() is threading.main_thread()


def finish(future: TransferFuture[R]) -> R:
    """The end of a call that is waited for until its limit. What ends the wait (the limit, Ctrl-C) ends the call, and
    this returns when the worker has let go of its memory. Raises WORKER_TIMEOUT: the worker did not confirm that."""
    assert future.limit_ms is not None
    try:
        if future.wait(future.limit_ms):
            return future.result()
    except BaseException:
        if not _stop(future):
            logger.warning("hbmesh: %s", future.unconfirmed("a call was interrupted"))
        raise
    if not _stop(future):
        raise future.unconfirmed(future.expired().message)
    return result_of_stopped(future, future.expired())


def _stop(future: TransferFuture[Any]) -> bool:
    """Ends the call. Has the worker confirmed it in time? Further interrupts (Ctrl-C again) don't end the wait."""
    future.cancel()
    end = time.monotonic() + future.stop_ms / 1000
    while True:
        try:
            return future.wait(max(0, math.ceil((end - time.monotonic()) * 1000)))
        except KeyboardInterrupt:
            continue


def result_of_stopped(future: TransferFuture[R], reason: HbmeshError) -> R:
    """What a call came to that was stopped for `reason` and has ended: keys that were done in time are worth telling.
    The worker only knows that it was told to stop; of the others the result says why."""
    try:
        result = future.result()
    except HbmeshError as error:
        if error.code == StatusCode.RPC_CANCELLED:
            raise reason from None
        raise
    for index, code in enumerate(result.codes):
        if code == StatusCode.RPC_CANCELLED:
            result.note(index, reason.code, reason.message)
    return result
