"""HeteroClient: device memory under keys, with the interface that existing scripts and vllm-ascend's store import.

Errors: TypeError for a wrong type, ValueError for lists whose lengths don't fit, RuntimeError (:class:`DsError`, with
``code`` and the text ``code: [N], msg: [...]``) for the rest.
"""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Tuple

from hbmesh import BatchResult, TransferFuture, current_device, generate_key
from hbmesh import Blob as NativeBlob
from hbmesh import DeviceBlobList as NativeBlobList

from ._ranges import get_ranges
from .kv_client import SetParam, check_connection, exist_of, open_client, options_of
from .util import check_keys, check_timeout, check_type, failed_or_raise, invalid, raise_first, translated

__all__ = ["Blob", "DeviceBlobList", "Future", "HeteroClient", "MetaInfo"]


class Blob:
    """A piece of device memory.

    Args:
        dev_ptr: its address.
        size: bytes.
    """

    def __init__(self, dev_ptr: int, size: int) -> None:
        self.dev_ptr = dev_ptr
        self.size = size

    def set_dev_ptr(self, dev_ptr: int) -> None:
        self.dev_ptr = dev_ptr

    def set_size(self, size: int) -> None:
        self.size = size


class DeviceBlobList:
    """The blobs of one object.

    Args:
        dev_idx: device that all of them are on.
        blob_list: :class:`Blob` by :class:`Blob`.
        src_offset: dev_mget only: where in the object to begin; then the blobs' sizes say how much is read.
    """

    def __init__(self, dev_idx: int, blob_list: List[Blob], src_offset: int = 0) -> None:
        self.dev_idx = dev_idx
        self.blob_list = blob_list
        self.src_offset = src_offset

    def append_blob(self, blob: Blob) -> None:
        self.blob_list.append(blob)

    def set_dev_idx(self, dev_idx: int) -> None:
        self.dev_idx = dev_idx

    def set_src_offset(self, src_offset: int) -> None:
        self.src_offset = src_offset

    def get_blob_list(self) -> List[Blob]:
        return self.blob_list


class MetaInfo:
    """What is known of an object.

    Attributes:
        blob_size_list: bytes of each blob.
    """

    def __init__(self, blob_size_list: List[int]) -> None:
        self.blob_size_list = blob_size_list


class Future:
    """Something under way: one key of dev_publish or dev_subscribe, or a whole asynchronous call."""

    def __init__(self, origin_future: "TransferFuture[Any]") -> None:
        self._future = origin_future

    def get(self, timeout_ms: int = 60000) -> List[str]:
        """Waits for the end, and returns the keys that failed.

        Raises:
            FutureTimeoutException: it has not ended; nothing was stopped.
            RuntimeError: it failed, or all keys of the call did.
        """
        check_timeout("timeout_ms", timeout_ms)
        with translated():
            return failed_or_raise(self._future.get(timeout_ms))


class HeteroClient:
    """Device memory under keys.

    Args:
        host: of the worker on this machine; "" with port 0: as DS_WORKER_ADDR or YR_CONFIG_PATH says.
        port: of the worker.
        connect_timeout_ms: how long init may take.
        token: what the worker wants to be told.
        client_public_key, client_private_key, server_public_key, access_key, secret_key, tenant_id: accepted; hbmesh
            tells tenants apart by token.
        enable_cross_node_connection: accepted; a client talks to the worker on its machine.
        req_timeout_ms: how long a call may take; 0: as connect_timeout_ms.
        enable_remote_h2d: accepted; gets from another node are always there.
        enable_exclusive_connection: accepted; every client has a queue of its own.

    Raises:
        TypeError: wrong type.
    """

    def __init__(
        self,
        host: str,
        port: int,
        connect_timeout_ms: int = 9000,
        token: str = "",
        client_public_key: str = "",
        client_private_key: str = "",
        server_public_key: str = "",
        access_key: str = "",
        secret_key: str = "",
        tenant_id: str = "",
        enable_cross_node_connection: bool = False,
        req_timeout_ms: int = 0,
        enable_remote_h2d: bool = False,
        *,
        enable_exclusive_connection: bool = False,
    ) -> None:
        arguments = dict(locals())
        del arguments["self"]
        check_connection(**arguments)
        self._client = open_client(host, port, connect_timeout_ms, req_timeout_ms, token)

    def init(self) -> None:
        """Connects. Raises RuntimeError: nothing serves the address, refused, no answer in time."""
        with translated():
            self._client.connect()

    def close(self) -> None:
        """Ends calls and futures that are under way. What is not closed is closed when the interpreter exits."""
        self._client.close()

    # ---- Host objects ------------------------------------------------------------------------------------------------

    def mset_d2h(
        self, keys: List[str], data_blob_list: List[DeviceBlobList], set_param: Optional[SetParam] = None
    ) -> None:
        """Copies device memory to host objects; the blobs of a key become one object.

        Raises:
            RuntimeError: a key could not be set; `failed_keys` has all of them.
        """
        lists = _native_lists(keys, data_blob_list)
        with translated():
            raise_first(self._client.mset_d2h(keys, lists, **options_of(set_param or SetParam())))

    def mget_h2d(self, keys: List[str], data_blob_list: List[DeviceBlobList], sub_timeout_ms: int) -> List[str]:
        """Reads host objects of any node into device memory, as the blobs that were set. Waits up to `sub_timeout_ms`
        for keys that are not there yet. Returns the keys that failed; raises RuntimeError when all did."""
        check_timeout("sub_timeout_ms", sub_timeout_ms)
        lists = _native_lists(keys, data_blob_list)
        with translated():
            return failed_or_raise(self._client.mget_h2d(keys, lists, timeout_ms=sub_timeout_ms))

    def mset_d2h_from_multi_buffers(
        self, keys: List[str], addrs: List[List[int]], sizes: List[List[int]], set_param: Optional[SetParam] = None
    ) -> None:
        """mset_d2h of plain numbers: addrs[i] and sizes[i] are the blobs of keys[i], on the calling thread's device.

        Raises:
            TypeError, ValueError: wrong types; lengths that don't fit.
            RuntimeError: no current device; or a key could not be set.
        """
        _check_buffers(keys, addrs, sizes)
        options = options_of(set_param or SetParam())
        with translated():
            raise_first(self._client.mset_d2h_from_multi_buffers(keys, addrs, sizes, device_index=_device(), **options))

    def mget_h2d_from_multi_buffers(
        self, keys: List[str], addrs: List[List[int]], sizes: List[List[int]], sub_timeout_ms: int = 0
    ) -> List[str]:
        """mget_h2d of plain numbers. Returns the keys that failed, an empty list when none did; raises RuntimeError
        when all did."""
        check_timeout("sub_timeout_ms", sub_timeout_ms)
        _check_buffers(keys, addrs, sizes)
        with translated():
            got = self._client.mget_h2d_from_multi_buffers(
                keys, addrs, sizes, device_index=_device(), timeout_ms=sub_timeout_ms
            )
            return failed_or_raise(got)

    def async_mset_d2h(
        self, keys: List[str], data_blob_list: List[DeviceBlobList], set_param: Optional[SetParam] = None
    ) -> Future:
        """mset_d2h with a future, whose get returns the keys that failed."""
        lists = _native_lists(keys, data_blob_list)
        with translated():
            return Future(self._client.mset_d2h_async(keys, lists, **options_of(set_param or SetParam())))

    def async_mget_h2d(self, keys: List[str], data_blob_list: List[DeviceBlobList], sub_timeout_ms: int) -> Future:
        """mget_h2d with a future, whose get returns the keys that failed."""
        check_timeout("sub_timeout_ms", sub_timeout_ms)
        lists = _native_lists(keys, data_blob_list)
        with translated():
            return Future(self._client.mget_h2d_async(keys, lists, timeout_ms=sub_timeout_ms))

    def delete(self, keys: List[str]) -> List[str]:
        """Removes host objects everywhere; returns the keys that failed."""
        check_keys(keys)
        with translated():
            return failed_or_raise(self._client.delete(keys))

    def exist(self, keys: List[str]) -> List[bool]:
        """Is it there, by key. Raises RuntimeError when that can't be told: a fault is never a no."""
        check_keys(keys)
        return exist_of(self._client, keys)

    def batch_is_exist(self, keys: List[str]) -> List[int]:
        """exist as 1 and 0."""
        return [int(there) for there in self.exist(keys)]

    def get_meta_info(self, keys: List[str], is_dev_key: bool) -> Tuple[List[str], List[MetaInfo]]:
        """Keys that failed, and MetaInfo of the others in order. `is_dev_key` is accepted; keys tell their kind."""
        check_keys(keys)
        check_type("is_dev_key", is_dev_key, bool)
        with translated():
            result = self._client.get_meta_info(keys)
        failed = failed_or_raise(result)
        return failed, [MetaInfo(meta.blob_sizes) for meta in result.metas if meta is not None]

    # ---- Device to device --------------------------------------------------------------------------------------------

    def dev_publish(self, keys: List[str], data_blob_list: List[DeviceBlobList]) -> List[Future]:
        """Offers device memory, each key to one receiver. A future's get returns when the receiver has the bytes."""
        return self._by_key(self._client.dev_publish, keys, data_blob_list)

    def dev_subscribe(self, keys: List[str], data_blob_list: List[DeviceBlobList]) -> List[Future]:
        """Receives what is or will be published, on another card: waits 20 s for one key, 60 s for several."""
        return self._by_key(self._client.dev_subscribe, keys, data_blob_list)

    def dev_mset(self, keys: List[str], data_blob_list: List[DeviceBlobList]) -> List[str]:
        """Makes device memory readable for others, until it is deleted or the client ends; returns the keys that
        failed."""
        lists = _native_lists(keys, data_blob_list)
        with translated():
            return failed_or_raise(self._client.dev_mset(keys, lists))

    def dev_mget(self, keys: List[str], data_blob_list: List[DeviceBlobList], sub_timeout_ms: int) -> List[str]:
        """Reads such memory into that of another card; returns the keys that failed. With src_offset in a blob list,
        that part of each object is read."""
        check_timeout("sub_timeout_ms", sub_timeout_ms)
        if isinstance(data_blob_list, list) and any(getattr(each, "src_offset", 0) for each in data_blob_list):
            offsets = [each.src_offset for each in data_blob_list]
            return self._get_ranges(keys, data_blob_list, offsets, sub_timeout_ms)
        lists = _native_lists(keys, data_blob_list)
        with translated():
            return failed_or_raise(self._client.dev_mget(keys, lists, timeout_ms=sub_timeout_ms))

    def dev_delete(self, keys: List[str]) -> List[str]:
        """Ends such objects everywhere; the memory is not touched. Returns the keys that failed."""
        check_keys(keys)
        with translated():
            return failed_or_raise(self._client.dev_delete(keys))

    def async_dev_delete(self, keys: List[str]) -> Future:
        """dev_delete with a future."""
        check_keys(keys)
        with translated():
            return Future(self._client.dev_delete_async(keys))

    def dev_local_delete(self, keys: List[str]) -> List[str]:
        """Takes back what this client offers of them. Returns the keys that failed."""
        check_keys(keys)
        with translated():
            return failed_or_raise(self._client.dev_local_delete(keys))

    # ---- More --------------------------------------------------------------------------------------------------------

    def pre_register_device_memory(self, dev_ptrs: List[int], sizes: List[int]) -> None:
        """Registers device memory ahead of its first use. Raises RuntimeError: it is no device memory."""
        for name, values in (("dev_ptrs", dev_ptrs), ("sizes", sizes)):
            check_type(name, values, list)
            for value in values:
                check_type(f"{name}, an element", value, int)
        if len(dev_ptrs) != len(sizes) or not dev_ptrs:
            raise ValueError(f"{len(dev_ptrs)} pointers and {len(sizes)} sizes: give as many of each, at least one")
        with translated():
            self._client.pre_register_device_memory(dev_ptrs, sizes)

    def generate_key(self, prefix: str = "") -> str:
        """A key that nobody else has: 36 characters, after the prefix and a "-" if there is one."""
        check_type("prefix", prefix, str)
        with translated():
            return generate_key(prefix)

    def _by_key(
        self,
        call: "Callable[[List[str], List[NativeBlobList]], List[TransferFuture[BatchResult]]]",
        keys: List[str],
        data_blob_list: List[DeviceBlobList],
    ) -> List[Future]:
        lists = _native_lists(keys, data_blob_list)
        with translated():
            return [Future(future) for future in call(keys, lists)]

    def _get_ranges(
        self, keys: List[str], blob_lists: List[DeviceBlobList], offsets: List[int], timeout_ms: int
    ) -> List[str]:
        for offset in offsets:
            check_type("src_offset", offset, int)
        lists = _native_lists(keys, blob_lists, with_offsets=True)
        with translated():
            return failed_or_raise(get_ranges(self._client, keys, lists, list(map(int, offsets)), timeout_ms))


def _native_lists(
    keys: List[str], data_blob_list: List[DeviceBlobList], with_offsets: bool = False
) -> List[NativeBlobList]:
    """Checks keys and blob lists of a call, and turns the lists into those of hbmesh."""
    check_keys(keys)
    check_type("data_blob_list", data_blob_list, list)
    if not keys or not data_blob_list:
        raise invalid("The input of keys and data_blob_list should not be empty")
    if len(keys) != len(data_blob_list):
        raise ValueError(f"{len(keys)} keys, but {len(data_blob_list)} elements in data_blob_list")
    lists = []
    for each in data_blob_list:
        check_type("data_blob_list, an element", each, DeviceBlobList)
        check_type("dev_idx", each.dev_idx, int)
        check_type("blob_list", each.blob_list, list)
        check_type("src_offset", each.src_offset, int)
        if each.src_offset != 0 and not with_offsets:
            raise invalid("src_offset is for dev_mget: other calls read and write whole objects")
        if each.dev_idx < 0 or each.dev_idx != data_blob_list[0].dev_idx:
            raise invalid(f"dev_idx {each.dev_idx} beside {data_blob_list[0].dev_idx}: one call is about one device")
        blobs = []
        for blob in each.blob_list:
            check_type("blob_list, an element", blob, Blob)
            check_type("dev_ptr", blob.dev_ptr, int)
            check_type("size", blob.size, int)
            blobs.append(NativeBlob(int(blob.dev_ptr), int(blob.size)))
        lists.append(NativeBlobList(int(each.dev_idx), blobs))
    return lists


def _check_buffers(keys: Any, addrs: Any, sizes: Any) -> None:
    """Types and lengths of the lists of a multi-buffer call; numbers are checked where they are put together."""
    check_keys(keys)
    check_type("addrs", addrs, list)
    check_type("sizes", sizes, list)
    if not keys or not addrs or not sizes:
        raise ValueError("keys, addrs and sizes must not be empty")
    if len(keys) != len(addrs) or len(keys) != len(sizes):
        raise ValueError(f"{len(keys)} keys, {len(addrs)} addrs and {len(sizes)} sizes: they must be as many")
    for group in (addrs, sizes):
        for each in group:
            check_type("addrs and sizes, an element", each, list)


def _device() -> int:
    device = current_device()
    if device is None:
        raise invalid(
            "the calling thread has no current device: call acl.rt.set_device(i) on it (or hbmesh.set_device), or use "
            "mset_d2h and mget_h2d, whose blob lists name the device"
        )
    return device
