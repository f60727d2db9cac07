"""Futures: the end of one key of a publication or subscription, or of a whole call."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Generic, Optional, Sequence, Type, TypeVar

from . import _native
from ._batch import check_uint
from .errors import StatusCode, error_of
from .results import BatchResult

if TYPE_CHECKING:
    from .client import Client

FUTURE_TIMEOUT_MS_MAX = 1_800_000

R = TypeVar("R", bound=BatchResult)


class TransferFuture(Generic[R]):
    """Something under way. Every future ends: with its transfer, by :meth:`cancel`, with the peer, the worker or the
    client. Device memory of the call must stay allocated until then; forgetting the future doesn't end the transfer.

    Attributes:
        keys: the key of a publication or subscription, or all keys of a call.
    """

    def __init__(self, client: "Client", handle: Any, keys: Sequence[str], kind: Type[R]) -> None:
        self.keys = list(keys)
        self._client = client
        self._handle = handle
        self._kind = kind
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
        check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        api = self._api()
        out = ctypes.c_void_p()
        status = api.future_get(self._handle, timeout_ms, ctypes.byref(out))
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

    def cancel(self) -> None:
        """Asks for the end of this future alone: RPC_CANCELLED, unless it ends otherwise first. Its memory may be in
        use until it has ended."""
        self._api().future_cancel(self._handle)

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
            self._client._api.future_free(handle)
