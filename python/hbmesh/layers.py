"""LayerTicket: device memory that waits for layers which another process pushes."""

from __future__ import annotations

import ctypes
import math
import time
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence

from . import _native
from ._batch import check_uint
from .errors import StatusCode, error_of
from .futures import FUTURE_TIMEOUT_MS_MAX, STOP_GRACE_MS, TransferFuture
from .results import BatchResult

if TYPE_CHECKING:
    from ._session import Session


class LayerTicket:
    """A reservation of device memory for layers; see :meth:`Client.reserve_layers`. As a context manager it is
    cancelled at the end of the block.

    Attributes:
        text: what the pushing side needs to know. A secret: who has it can write there.
        layer_count: layers 0 to this number - 1.
    """

    def __init__(self, client: "Session", handle: Any, owners: Sequence[Any], stop_ms: int = STOP_GRACE_MS) -> None:
        """`owners` keep the device memory; `stop_ms` as of :class:`TransferFuture`."""
        self._owners = owners
        self._stop_ms = stop_ms
        self._layers: "Dict[int, TransferFuture[BatchResult]]" = {}
        self._client = client
        self._handle = handle
        self._generation = _native.generation()
        self.text: str = client._api.ticket_text(handle).decode()
        self.layer_count: int = client._api.ticket_layer_count(handle)

    def layer(self, index: int, timeout_ms: int = 60_000) -> None:
        """Returns when all bytes of the layer are in its memory.

        Args:
            index: from 0.
            timeout_ms: 0 to 1,800,000.

        Raises:
            FutureTimeoutError: not there within this wait, or the ticket expired.
            PeerDeadError: the pusher ended within a layer; the whole ticket is over.
            CancelledError: the ticket was cancelled.
            HbmeshError: OUT_OF_RANGE, no such layer.
        """
        timeout_ms = check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        future = self._layer(index)
        if not future.wait(timeout_ms):
            raise error_of(
                StatusCode.FUTURE_TIMEOUT,
                f"waited {timeout_ms} ms for layer {index} of the ticket, which stays open: wait again, or cancel it",
                node=self._client.address,
            )
        future.result()

    def all(self, timeout_ms: int = 60_000) -> None:
        """Returns when every layer is there. Raises as :meth:`layer`."""
        timeout_ms = check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        end = time.monotonic() + timeout_ms / 1000
        for index in range(self.layer_count):
            self.layer(index, min(timeout_ms, max(0, math.ceil((end - time.monotonic()) * 1000))))

    def future(self, index: int) -> "TransferFuture[BatchResult]":
        """A future for one layer, with its bytes and what carried them. Raises OUT_OF_RANGE: no such layer."""
        out = ctypes.c_void_p()
        self._check(self._api().ticket_layer(self._handle, check_uint(index, "layer"), ctypes.byref(out)))
        layer = [f"layer {index}"]
        return TransferFuture(self._client, out, layer, BatchResult, owners=self._owners, stop_ms=self._stop_ms)

    def _layer(self, index: int) -> "TransferFuture[BatchResult]":
        """The future of a layer that all waits of this ticket share. Raises as :meth:`future`."""
        index = check_uint(index, "layer")
        found = self._layers.get(index)
        return self._layers.setdefault(index, self.future(index)) if found is None else found

    def cancel(self) -> None:
        """Asks for the end of the reservation; layers that are not there end with RPC_CANCELLED. A layer's memory may
        be in use until its future has ended."""
        self._check(self._api().ticket_cancel(self._handle))

    def _check(self, status: int) -> None:
        if status != StatusCode.OK:
            raise error_of(status, self._api().last_text(), node=self._client.address)

    def _api(self) -> _native.Api:
        if self._generation != _native.generation():
            raise _native.fork_error("ticket", self._client.address)
        return self._client._api

    def __enter__(self) -> "LayerTicket":
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()

    def __repr__(self) -> str:
        return f"<LayerTicket of {self.layer_count} layers>"

    def __del__(self) -> None:
        handle: Optional[Any] = getattr(self, "_handle", None)
        if handle and self._generation == _native.generation():
            for index in range(self.layer_count):
                self._layer(index)
            self._layers.clear()  # forgotten futures keep the memory of a layer that has not ended
            self._client._api.ticket_free(handle)
