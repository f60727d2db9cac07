"""Client: objects in device memory, host memory and on other nodes, by key.

Every call checks its arguments first: TypeError for a wrong type, ValueError for a wrong shape or range, both before
anything is done. All else is an :class:`HbmeshError`. A call fails as a whole only when nothing could be tried; else
its result has a status for each key.

Thread rule: any thread, several at once. Calls release the interpreter's lock while they wait. A client made before a
fork raises NotSupportedError in the child.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import threading
import weakref
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Type, TypeVar

from . import _native, config
from ._batch import CallBatch, batch_of, check_keys, check_uint, set_options
from .blobs import DeviceBlobList, flatten
from .errors import StatusCode, error_of
from .futures import FUTURE_TIMEOUT_MS_MAX, TransferFuture
from .layers import LayerTicket
from .results import BatchResult, ExistResult, Health, MetaResult, WriteResult

R = TypeVar("R", bound=BatchResult)


class Client:
    """A process's connection to the worker on its machine. As a context manager it connects and closes.

    Args:
        host: IP address of the worker on this machine, or a name that leads to it.
        port: of it, usually 31501.
        token: what the worker wants to be told, if it was started with tokens.
        connect_timeout_ms: how long :meth:`connect` may take.
        request_timeout_ms: how long a call may take, its own waiting and the time for its bytes apart; 0: as
            `connect_timeout_ms`.
        subscribe_timeout_ms: how long a subscription of one key waits, unless it says otherwise.
        subscribe_many_timeout_ms: the same for several keys.
        floor_bytes_per_second: slowest transfer that is still waited for.
        spin_micros: how long the receiving thread polls after an answer before it sleeps.
    """

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
        spin_micros: int = 20,
    ) -> None:
        if not isinstance(host, str):
            raise TypeError(f"host must be a string, not {type(host).__name__}")
        if not isinstance(token, str):
            raise TypeError(f"token must be a string, not {type(token).__name__}")
        if host == "" or check_uint(port, "port", 65_535) == 0:
            raise ValueError(f"host {host!r} and port {port} name no worker: give both, as in 127.0.0.1 and 31501")
        self._handle: Optional[Any] = None
        self._forgotten: Optional[Any] = None  # made before the host's name was looked up; perhaps still in a call
        self._closed = False
        self._api = _native.load()
        self._generation = _native.generation()
        #: ``IP:PORT`` of the worker; a host's name is looked up when the client connects.
        self.address = config.join_address(host, port)
        self._unresolved: Optional[Tuple[str, int]] = None if config.is_ip(host) else (host, port)
        self._connecting = threading.Lock()
        options = self._options = _native.made(_native.ClientOptions)
        options.token = token.encode()
        options.connect_timeout_ms = check_uint(connect_timeout_ms, "connect_timeout_ms")
        options.request_timeout_ms = check_uint(request_timeout_ms, "request_timeout_ms")
        options.subscribe_timeout_ms = check_uint(subscribe_timeout_ms, "subscribe_timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        options.subscribe_many_ms = check_uint(
            subscribe_many_timeout_ms, "subscribe_many_timeout_ms", FUTURE_TIMEOUT_MS_MAX
        )
        options.spin_micros = check_uint(spin_micros, "spin_micros")
        options.floor_bytes_per_second = check_uint(floor_bytes_per_second, "floor_bytes_per_second", 2**64 - 1)
        self._handle = self._create()
        _open_clients.add(self)

    def _create(self) -> Any:
        handle = ctypes.c_void_p()
        self._options.worker_address = self.address.encode()
        self._check(self._api.client_create(ctypes.byref(self._options), ctypes.byref(handle)))
        return handle

    @classmethod
    def from_environment(cls, **options: Any) -> "Client":
        """A client of the worker that DS_WORKER_ADDR or YR_CONFIG_PATH names; see :mod:`hbmesh.config`."""
        found = config.from_environment()
        options.setdefault("connect_timeout_ms", found.connect_timeout_ms)
        options.setdefault("request_timeout_ms", found.request_timeout_ms)
        return cls(found.host, found.port, **options)

    def connect(self) -> "Client":
        """Connects; again, after the worker was lost. Does nothing while connected.

        Raises:
            NoWorkerError: nothing serves the address on this machine, or the host's name leads nowhere.
            NotAuthorizedError: another user serves it, or the token is refused.
            DeadlineExceededError: no answer in time.
            ShuttingDownError: the client was closed.
            HbmeshError: DATA_INCONSISTENCY, the worker is of another release.
        """
        self._usable()
        with self._connecting:
            if self._unresolved is not None and not self._closed:
                self.address = config.resolve(*self._unresolved)
                self._forgotten, self._handle = self._handle, self._create()
                self._unresolved = None
        self._check(self._api.client_init(self._handle))
        return self

    def close(self) -> None:
        """Ends every call and future with SHUTTING_DOWN. Returns once the worker no longer uses their device memory, or
        after 2 seconds; their messages say which. May be called again."""
        self._closed = True
        if self._handle and self._generation == _native.generation():
            self._api.client_close(self._handle)
        _open_clients.discard(self)

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
        options = set_options(existence, ttl_seconds, pin, checksum)
        return self._call(WriteResult, self._api.set_d2h, batch, ctypes.byref(options))

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
        check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        return self._call(BatchResult, self._api.get_h2d, batch_of(keys, blob_lists), timeout_ms)

    def mset_d2h_from_multi_buffers(
        self,
        keys: Sequence[str],
        addresses: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
        *,
        device_index: int,
        **options: Any,
    ) -> WriteResult:
        """:meth:`mset_d2h` of plain numbers: `addresses[i][j]` and `sizes[i][j]` are blob j of key i. The fastest way
        in, since no object is made for each blob."""
        batch = CallBatch(keys, device_index, addresses, sizes)
        struct = set_options(**options)
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
        check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        return self._call(BatchResult, self._api.get_h2d, CallBatch(keys, device_index, addresses, sizes), timeout_ms)

    def mset_d2h_from_multi_buffers_async(
        self,
        keys: Sequence[str],
        addresses: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
        *,
        device_index: int,
        **options: Any,
    ) -> "TransferFuture[WriteResult]":
        """:meth:`mset_d2h_from_multi_buffers` with a future for the whole call."""
        batch = CallBatch(keys, device_index, addresses, sizes)
        struct = set_options(**options)
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
        check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        batch = CallBatch(keys, device_index, addresses, sizes)
        return self._future(BatchResult, self._api.get_h2d_async, batch, timeout_ms)

    def mset_d2h_async(
        self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList], **options: Any
    ) -> "TransferFuture[WriteResult]":
        """:meth:`mset_d2h` with a future for the whole call."""
        struct = set_options(**options)
        return self._future(WriteResult, self._api.set_d2h_async, batch_of(keys, blob_lists), ctypes.byref(struct))

    def mget_h2d_async(
        self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList], *, timeout_ms: int = 0
    ) -> "TransferFuture[BatchResult]":
        """:meth:`mget_h2d` with a future for the whole call."""
        check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        return self._future(BatchResult, self._api.get_h2d_async, batch_of(keys, blob_lists), timeout_ms)

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
        encoded = check_keys([key])[0].encode()
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
        check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
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
        check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        batch = batch_of(keys, blob_lists)
        return self._call(BatchResult, self._api.dev_mget, batch, timeout_ms, int(share_replica))

    def dev_mget_async(
        self,
        keys: Sequence[str],
        blob_lists: Sequence[DeviceBlobList],
        *,
        timeout_ms: int = 0,
        share_replica: bool = False,
    ) -> "TransferFuture[BatchResult]":
        """:meth:`dev_mget` with a future for the whole call."""
        check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        batch = batch_of(keys, blob_lists)
        return self._future(BatchResult, self._api.dev_mget_async, batch, timeout_ms, int(share_replica))

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
        milliseconds = max(1, round(ttl_seconds * 1000))
        status = self._api.reserve_layers(self._usable(), ctypes.byref(batch.struct), milliseconds, ctypes.byref(out))
        self._check(status, batch.names)
        return LayerTicket(self, out)

    def push(self, ticket_text: str, layer: int, blob_list: DeviceBlobList) -> BatchResult:
        """Pushes one layer; returns when its bytes are complete at the other side.

        Raises:
            NotFoundError: unknown or expired ticket.
            NotAuthorizedError: wrong secret.
            KeyExistsError: that layer was pushed before.
            PeerDeadError: the reserving side ended.
            HbmeshError: OUT_OF_RANGE, no such layer; INVALID, other blobs than were reserved.
        """
        out = self._push(self._api.push_layer, ticket_text, layer, blob_list)
        return BatchResult(self._api, out, [str(layer)], self.address)

    def push_async(self, ticket_text: str, layer: int, blob_list: DeviceBlobList) -> "TransferFuture[BatchResult]":
        """:meth:`push` with a future."""
        out = self._push(self._api.push_layer_async, ticket_text, layer, blob_list)
        return TransferFuture(self, out, [str(layer)], BatchResult)

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

    def _usable(self) -> Any:
        if self._generation != _native.generation():
            raise _native.fork_error("client", self.address)
        return self._handle

    def _check(self, status: int, keys: Sequence[str] = ()) -> None:
        if status != StatusCode.OK:
            text, number = self._api.last_text(), self._api.last_key()
            key = keys[number - 1] if 0 < number <= len(keys) else None
            raise error_of(status, text, key=key, node=self.address)

    def _push(self, function: Callable[..., int], ticket_text: str, layer: int, blob_list: DeviceBlobList) -> Any:
        batch = CallBatch(None, *flatten([blob_list]))
        text = check_keys([ticket_text])[0].encode()
        out = ctypes.c_void_p()
        number = check_uint(layer, "layer")
        self._check(function(self._usable(), text, number, ctypes.byref(batch.struct), ctypes.byref(out)))
        return out

    def _call(self, kind: Type[R], function: Callable[..., int], batch: CallBatch, *arguments: Any) -> R:
        out = ctypes.c_void_p()
        status = function(self._usable(), ctypes.byref(batch.struct), *arguments, ctypes.byref(out))
        self._check(status, batch.names)
        return kind(self._api, out, batch.names, self.address)

    def _future(
        self, kind: Type[R], function: Callable[..., int], batch: CallBatch, *arguments: Any
    ) -> "TransferFuture[R]":
        out = ctypes.c_void_p()
        status = function(self._usable(), ctypes.byref(batch.struct), *arguments, ctypes.byref(out))
        self._check(status, batch.names)
        return TransferFuture(self, out, batch.names, kind)

    def _futures(
        self, function: Callable[..., int], batch: CallBatch, *arguments: Any
    ) -> "List[TransferFuture[BatchResult]]":
        out = (ctypes.c_void_p * len(batch.names))()
        status = function(self._usable(), ctypes.byref(batch.struct), *arguments, out)
        self._check(status, batch.names)
        return [TransferFuture(self, handle, [key], BatchResult) for handle, key in zip(out, batch.names)]

    def __enter__(self) -> "Client":
        return self.connect()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<hbmesh.Client of {self.address}>"

    def __del__(self) -> None:
        for handle in (getattr(self, "_handle", None), getattr(self, "_forgotten", None)):
            if handle and self._generation == _native.generation():
                self._api.client_free(handle)


def generate_key(prefix: str = "") -> str:
    """A key that nobody else has; see :meth:`Client.generate_key`."""
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, not {type(prefix).__name__}")
    api = _native.load()
    encoded = prefix.encode()
    key = ctypes.create_string_buffer(len(encoded) + 64)
    status = api.generate_key(encoded, key, len(key))
    if status != StatusCode.OK:
        raise error_of(status, api.last_text())
    return key.value.decode()


# Closed when the interpreter exits, so that nothing is cut off in the middle.
_open_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for client in list(_open_clients):
        client.close()
