"""Client: objects in device memory, host memory and on other nodes, by key.

Every call checks its arguments first: TypeError for a wrong type, ValueError for a wrong shape or range, both before
anything is done. All else is an :class:`HbmeshError`. A call fails as a whole only when nothing could be tried; else
its result has a status for each key.

Thread rule: any thread, several at once. Calls release the interpreter's lock while they wait; on the main thread,
Ctrl-C ends those that wait for keys. A client made before a fork raises NotSupportedError in the child.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any, Callable, Dict, List, Sequence, Tuple

from . import _native
from ._batch import CallBatch, batch_of, check_uint, encoded_text, set_options
from ._session import Session
from .blobs import DeviceBlobList, flatten
from .errors import StatusCode, error_of
from .futures import FUTURE_TIMEOUT_MS_MAX, STOP_GRACE_MS, TransferFuture
from .layers import LayerTicket
from .results import BatchResult, ExistResult, Health, MetaResult, WriteResult


class Client(Session):
    """A process's connection to the worker on its machine. As a context manager it connects and closes.

    Args:
        host: IP address of the worker on this machine (IPv6 with brackets or without), or a name that leads to it.
        port: of it, usually 31501.
        token: what the worker wants to be told, if it was started with tokens.
        connect_timeout_ms: how long :meth:`connect` may take.
        request_timeout_ms: how long a call may take, its own waiting and the time for its bytes apart; 0: as
            `connect_timeout_ms`.
        subscribe_timeout_ms: how long a subscription of one key waits, unless it says otherwise.
        subscribe_many_timeout_ms: the same for several keys.
        floor_bytes_per_second: slowest transfer that is still waited for.
        spin_micros: how long a call polls for its answer before it sleeps.
    """

    # ---- Host objects ------------------------------------------------------------------------------------------------

    def mset_d2h(
        self,
        keys: Sequence[str],
        blob_lists: Sequence[DeviceBlobList],
        *,
        existence: str = "skip",
        ttl_seconds: float = 0,
        pin: str = "none",
        checksum: bool = False,
    ) -> WriteResult:
        """Copies device memory into host objects: the blobs of each list become one object under its key, visible on
        every node when the call returns, and only whole.

        Args:
            keys: 1 to 10,000, none twice.
            blob_lists: one a key, all on one device.
            existence: a key that is there: "skip" leaves it (`existed`), "fail" answers KEY_ALREADY_EXISTS, "replace"
                puts the new bytes in its place.
            ttl_seconds: until the objects are removed; 0: never.
            pin: when memory runs short, "none" goes first, "soft" last, "hard" never.
            checksum: keep a CRC32C, which every get checks.

        Raises:
            TypeError, ValueError: wrong type, shape or option.
            HbmeshError: nothing could be tried.
        """
        batch = batch_of(keys, blob_lists)
        struct = set_options(existence, ttl_seconds, pin, checksum)
        return self._call(WriteResult, self._api.set_d2h, batch, ctypes.byref(struct))

    def mget_h2d(
        self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList], *, timeout_ms: int = 0
    ) -> BatchResult:
        """Reads host objects, of this node or another, into device memory.

        Args:
            keys: 1 to 10,000, none twice.
            blob_lists: as those of the set: as many blobs, of the same sizes.
            timeout_ms: how long to wait for keys that are not there yet, each on its own; at most 1,800,000.

        Raises:
            TypeError, ValueError: wrong type or shape.
            HbmeshError: nothing could be tried.
        """
        return self._get(batch_of(keys, blob_lists), timeout_ms)

    def mset_d2h_from_multi_buffers(
        self,
        keys: Sequence[str],
        addresses: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
        *,
        device_index: int,
        existence: str = "skip",
        ttl_seconds: float = 0,
        pin: str = "none",
        checksum: bool = False,
    ) -> WriteResult:
        """:meth:`mset_d2h` of plain numbers: `addresses[i][j]` and `sizes[i][j]` are blob j of key i. The fastest way
        in, since no object is made for each blob."""
        batch = CallBatch(keys, device_index, addresses, sizes)
        struct = set_options(existence, ttl_seconds, pin, checksum)
        return self._call(WriteResult, self._api.set_d2h, batch, ctypes.byref(struct))

    def mget_h2d_from_multi_buffers(
        self,
        keys: Sequence[str],
        addresses: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
        *,
        device_index: int,
        timeout_ms: int = 0,
    ) -> BatchResult:
        """:meth:`mget_h2d` of plain numbers, as :meth:`mset_d2h_from_multi_buffers`."""
        return self._get(CallBatch(keys, device_index, addresses, sizes), timeout_ms)

    def mset_d2h_from_multi_buffers_async(
        self,
        keys: Sequence[str],
        addresses: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
        *,
        device_index: int,
        existence: str = "skip",
        ttl_seconds: float = 0,
        pin: str = "none",
        checksum: bool = False,
    ) -> "TransferFuture[WriteResult]":
        """:meth:`mset_d2h_from_multi_buffers` with a future for the whole call."""
        batch = CallBatch(keys, device_index, addresses, sizes)
        struct = set_options(existence, ttl_seconds, pin, checksum)
        return self._future(WriteResult, self._api.set_d2h_async, batch, ctypes.byref(struct))

    def mget_h2d_from_multi_buffers_async(
        self,
        keys: Sequence[str],
        addresses: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
        *,
        device_index: int,
        timeout_ms: int = 0,
    ) -> "TransferFuture[BatchResult]":
        """:meth:`mget_h2d_from_multi_buffers` with a future for the whole call."""
        return self._get_async(CallBatch(keys, device_index, addresses, sizes), timeout_ms)

    def mset_d2h_async(
        self,
        keys: Sequence[str],
        blob_lists: Sequence[DeviceBlobList],
        *,
        existence: str = "skip",
        ttl_seconds: float = 0,
        pin: str = "none",
        checksum: bool = False,
    ) -> "TransferFuture[WriteResult]":
        """:meth:`mset_d2h` with a future for the whole call."""
        struct = set_options(existence, ttl_seconds, pin, checksum)
        return self._future(WriteResult, self._api.set_d2h_async, batch_of(keys, blob_lists), ctypes.byref(struct))

    def mget_h2d_async(
        self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList], *, timeout_ms: int = 0
    ) -> "TransferFuture[BatchResult]":
        """:meth:`mget_h2d` with a future for the whole call."""
        return self._get_async(batch_of(keys, blob_lists), timeout_ms)

    def delete(self, keys: Sequence[str]) -> WriteResult:
        """Removes host objects everywhere. A key that is not there is OK, without `existed`."""
        return self._call(WriteResult, self._api.delete, CallBatch(keys))

    def exist(self, keys: Sequence[str]) -> ExistResult:
        """Asks for 1 to 100,000 keys. Renews nothing. `presences` of the result are HIT, MISS or UNKNOWN."""
        return self._call(ExistResult, self._api.exist, CallBatch(keys))

    def get_meta_info(self, keys: Sequence[str]) -> MetaResult:
        """Size, blob sizes and generation of 1 to 100,000 objects."""
        return self._call(MetaResult, self._api.get_meta_info, CallBatch(keys))

    def explain(self, key: str) -> Dict[str, Any]:
        """All that is known of an object: where it is, how big, who holds it, when it expires, why it was or can't be
        evicted. Keys that are not there are explained too."""
        encoded = encoded_text(key, "key")
        out = ctypes.c_void_p()
        self._check(self._api.explain(self._usable(), encoded, ctypes.byref(out)), [key])
        text = self._api.result_message(out, 0).decode()
        self._api.result_free(out)
        document: Dict[str, Any] = json.loads(text)
        return document

    # ---- Device to device --------------------------------------------------------------------------------------------

    def dev_publish(
        self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList]
    ) -> "List[TransferFuture[BatchResult]]":
        """Offers device memory under keys, each to one subscriber. Returns once every key is published or could not
        be; a key's future ends when its receiver has the bytes, and the object is then gone. Publishing the same blobs
        again is a retry. The offer ends with the client."""
        return self._futures(self._api.dev_publish, batch_of(keys, blob_lists))

    def dev_subscribe(
        self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList], *, timeout_ms: int = 0
    ) -> "List[TransferFuture[BatchResult]]":
        """Receives what is or will be published, into device memory of another card. Returns at once.

        Args:
            keys: 1 to 10,000.
            blob_lists: as those of the publisher.
            timeout_ms: how long to wait for a publisher, at most 1,800,000; 0: the client's default, 20 s for one key
                and 60 s for several.
        """
        timeout_ms = check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        return self._futures(self._api.dev_subscribe, batch_of(keys, blob_lists), timeout_ms)

    def dev_mset(
        self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList], *, existence: str = "skip"
    ) -> WriteResult:
        """Makes device memory readable under keys, by any number of readers, until it is deleted or the client ends.
        The memory must stay valid and unchanged for that long."""
        options = set_options(existence)
        return self._call(WriteResult, self._api.dev_mset, batch_of(keys, blob_lists), ctypes.byref(options))

    def dev_mget(
        self,
        keys: Sequence[str],
        blob_lists: Sequence[DeviceBlobList],
        *,
        timeout_ms: int = 0,
        share_replica: bool = False,
    ) -> BatchResult:
        """Reads device memory that another card's owner set.

        Args:
            keys: 1 to 10,000.
            blob_lists: as those of the set.
            timeout_ms: how long to wait for keys that are not there yet.
            share_replica: this memory serves further readers, so it stays valid until :meth:`dev_local_delete`.
        """
        timeout_ms = check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        functions = (self._api.dev_mget, self._api.dev_mget_async)
        return self._call_that_waits(BatchResult, functions, batch_of(keys, blob_lists), timeout_ms, int(share_replica))

    def dev_mget_async(
        self,
        keys: Sequence[str],
        blob_lists: Sequence[DeviceBlobList],
        *,
        timeout_ms: int = 0,
        share_replica: bool = False,
    ) -> "TransferFuture[BatchResult]":
        """:meth:`dev_mget` with a future for the whole call."""
        timeout_ms = check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        batch = batch_of(keys, blob_lists)
        return self._future(
            BatchResult, self._api.dev_mget_async, batch, timeout_ms, int(share_replica), wait_ms=timeout_ms
        )

    def dev_delete(self, keys: Sequence[str]) -> WriteResult:
        """Ends such objects everywhere; nobody's memory is changed."""
        return self._call(WriteResult, self._api.dev_delete, CallBatch(keys))

    def dev_delete_async(self, keys: Sequence[str]) -> "TransferFuture[WriteResult]":
        """:meth:`dev_delete` with a future for the whole call."""
        return self._future(WriteResult, self._api.dev_delete_async, CallBatch(keys))

    def dev_local_delete(self, keys: Sequence[str]) -> WriteResult:
        """Takes back only what this client offers of them."""
        return self._call(WriteResult, self._api.dev_local_delete, CallBatch(keys))

    # ---- Layer by layer ----------------------------------------------------------------------------------------------

    def reserve_layers(self, layers: Sequence[DeviceBlobList], *, ttl_seconds: float = 600) -> LayerTicket:
        """Reserves device memory, one blob list a layer, all on one device. The ticket's text goes to the side that
        pushes.

        Args:
            layers: at least one.
            ttl_seconds: until a ticket that is not complete ends; above 0, at most 1,800.
        """
        if not 0 < ttl_seconds <= 1_800:
            raise ValueError(f"ttl_seconds is {ttl_seconds}: it must be above 0 and at most 1,800")
        device, pointers, sizes = flatten(layers)
        batch = CallBatch(None, device, pointers, sizes)
        out = ctypes.c_void_p()
        milliseconds = max(1, round(float(ttl_seconds) * 1000))
        status = self._api.reserve_layers(self._usable(), ctypes.byref(batch.struct), milliseconds, ctypes.byref(out))
        self._check(status, batch.names)
        return LayerTicket(self, out, list(layers), STOP_GRACE_MS + self._bytes_ms(batch))

    def push(self, ticket_text: str, layer: int, blob_list: DeviceBlobList) -> BatchResult:
        """Pushes one layer; returns when its bytes are complete at the other side.

        Raises:
            NotFoundError: unknown or expired ticket.
            NotAuthorizedError: wrong secret.
            KeyExistsError: that layer was pushed before.
            PeerDeadError: the reserving side ended.
            HbmeshError: OUT_OF_RANGE, no such layer; INVALID, other blobs than were reserved.
        """
        out, _ = self._push(self._api.push_layer, ticket_text, layer, blob_list)
        return BatchResult(self._api, out, [f"layer {layer}"], self.address)

    def push_async(self, ticket_text: str, layer: int, blob_list: DeviceBlobList) -> "TransferFuture[BatchResult]":
        """:meth:`push` with a future."""
        out, batch = self._push(self._api.push_layer_async, ticket_text, layer, blob_list)
        limit_ms, stop_ms = self._limit_ms(batch, 0), self._stop_ms(batch)
        return TransferFuture(self, out, [f"layer {layer}"], BatchResult, limit_ms, batch.owners, stop_ms)

    # ---- More --------------------------------------------------------------------------------------------------------

    def pre_register_device_memory(self, pointers: Sequence[int], sizes: Sequence[int]) -> None:
        """Registers device memory ahead of its first use.

        Raises:
            ValueError: not as many sizes as pointers.
            InvalidError: no device memory, naming the range.
            TryAgainError: as much is registered as may be.
        """
        if len(pointers) != len(sizes):
            raise ValueError(f"{len(pointers)} pointers, but {len(sizes)} sizes")
        starts = (ctypes.c_uint64 * len(pointers))(*[check_uint(each, "pointer", 2**64 - 1) for each in pointers])
        lengths = (ctypes.c_uint64 * len(sizes))(*[check_uint(each, "size", 2**64 - 1) for each in sizes])
        self._check(self._api.pre_register(self._usable(), starts, lengths, len(pointers)))

    def generate_key(self, prefix: str = "") -> str:
        """A key that nobody else has: 36 characters, after the prefix and a "-" if there is one. Asks nobody."""
        return generate_key(prefix)

    def health_check(self) -> Health:
        """Asks the worker how it is. Raises as every call when it does not answer."""
        info = _native.made(_native.HealthInfo)
        self._check(self._api.health(self._usable(), ctypes.byref(info)))
        reason = "" if info.ready else self._api.last_text()
        return Health(bool(info.ready), reason, info.device_count, info.backend.decode(), info.session)

    # ---- Inside ------------------------------------------------------------------------------------------------------

    def _get(self, batch: CallBatch, timeout_ms: int) -> BatchResult:
        timeout_ms = check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        functions = (self._api.get_h2d, self._api.get_h2d_async)
        return self._call_that_waits(BatchResult, functions, batch, timeout_ms)

    def _get_async(self, batch: CallBatch, timeout_ms: int) -> "TransferFuture[BatchResult]":
        timeout_ms = check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        return self._future(BatchResult, self._api.get_h2d_async, batch, timeout_ms, wait_ms=timeout_ms)

    def _push(
        self, function: Callable[..., int], ticket_text: str, layer: int, blob_list: DeviceBlobList
    ) -> Tuple[Any, CallBatch]:
        batch = CallBatch(None, *flatten([blob_list]))
        batch.owners = [blob_list]
        text = encoded_text(ticket_text, "ticket_text")
        out = ctypes.c_void_p()
        number = check_uint(layer, "layer")
        self._check(function(self._usable(), text, number, ctypes.byref(batch.struct), ctypes.byref(out)))
        return out, batch


def generate_key(prefix: str = "") -> str:
    """A key that nobody else has; see :meth:`Client.generate_key`."""
    encoded = encoded_text(prefix, "prefix")
    api = _native.load()
    key = ctypes.create_string_buffer(len(encoded) + 64)
    status = api.generate_key(encoded, key, len(key))
    if status != StatusCode.OK:
        raise error_of(status, api.last_text())
    return key.value.decode()
