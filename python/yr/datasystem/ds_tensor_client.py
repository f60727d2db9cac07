"""DsTensorClient: tensors under keys.

A tensor is anything contiguous with ``data_ptr()``, ``element_size()``, ``is_contiguous()`` and ``device.type`` (torch
on npu or cuda), or a numpy array over simulated device memory (``hbmesh.SimDevice(i).array(...)``). The device is the
client's ``device_id``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional

from hbmesh.blobs import bytes_of, pointer_of

from .hetero_client import Blob, DeviceBlobList, Future, HeteroClient
from .kv_client import SetParam
from .object_client import WriteMode
from .util import check_keys, check_timeout, check_type

__all__ = ["CopyRange", "DsTensorClient"]

_DEVICE_TYPES = ("npu", "cuda", "Ascend", "sim")


@dataclass
class CopyRange:
    """A part of an object, and where it goes.

    Attributes:
        src_offset: first byte in the object.
        dst_offset: first byte in the tensor.
        length: bytes.
    """

    src_offset: int
    dst_offset: int
    length: int


class DsTensorClient:
    """Tensors under keys; arguments as of :class:`HeteroClient`.

    Args:
        host, port: of the worker on this machine.
        device_id: device of the tensors.

    Raises:
        TypeError: wrong type.
    """

    def __init__(
        self,
        host: str,
        port: int,
        device_id: int,
        connect_timeout_ms: int = 60000,
        client_public_key: str = "",
        client_private_key: str = "",
        server_public_key: str = "",
        req_timeout_ms: int = 0,
        enable_remote_h2d: bool = False,
    ) -> None:
        check_type("device_id", device_id, int)
        self._hetero_client = HeteroClient(
            host,
            port,
            connect_timeout_ms=connect_timeout_ms,
            client_public_key=client_public_key,
            client_private_key=client_private_key,
            server_public_key=server_public_key,
            req_timeout_ms=req_timeout_ms,
            enable_remote_h2d=enable_remote_h2d,
        )
        self._device_id = int(device_id)

    def init(self) -> None:
        """Connects. Raises RuntimeError."""
        self._hetero_client.init()

    def close(self) -> None:
        self._hetero_client.close()

    def mset_d2h(self, keys: List[str], tensors: List[Any], set_param: Optional[SetParam] = None) -> None:
        """Copies tensors to host objects."""
        self._hetero_client.mset_d2h(keys, self._lists(tensors), set_param)

    def mget_h2d(self, keys: List[str], tensors: List[Any], sub_timeout_ms: int = 0) -> List[str]:
        """Reads host objects into tensors; returns the keys that failed."""
        return self._hetero_client.mget_h2d(keys, self._lists(tensors), sub_timeout_ms)

    def async_mset_d2h(self, keys: List[str], tensors: List[Any], set_param: Optional[SetParam] = None) -> Future:
        return self._hetero_client.async_mset_d2h(keys, self._lists(tensors), set_param)

    def async_mget_h2d(self, keys: List[str], tensors: List[Any], sub_timeout_ms: int = 0) -> Future:
        return self._hetero_client.async_mget_h2d(keys, self._lists(tensors), sub_timeout_ms)

    def delete(self, keys: List[str]) -> List[str]:
        return self._hetero_client.delete(keys)

    def exist(self, keys: List[str]) -> List[bool]:
        return self._hetero_client.exist(keys)

    def dev_mset(self, keys: List[str], tensors: List[Any]) -> List[str]:
        """Makes tensors readable for others; they stay as they are until they are deleted."""
        return self._hetero_client.dev_mset(keys, self._lists(tensors))

    def dev_mget(self, keys: List[str], tensors: List[Any], sub_timeout_ms: int = 0) -> List[str]:
        """Reads others' tensors into these; returns the keys that failed."""
        return self._hetero_client.dev_mget(keys, self._lists(tensors), sub_timeout_ms)

    def dev_mget_into_tensor(
        self, keys: List[str], tensor: Any, copy_ranges: List[CopyRange], sub_timeout_ms: int = 60000
    ) -> List[str]:
        """Reads a part of each key's object into a place of one tensor; returns the keys that failed.

        Args:
            keys: as many as ranges.
            tensor: where all parts go.
            copy_ranges: :class:`CopyRange` by key.
            sub_timeout_ms: how long to wait for keys that are not there yet.

        Raises:
            ValueError: not as many ranges as keys, or a range beyond the tensor.
            RuntimeError: a range beyond its object; or all keys failed.
        """
        check_keys(keys)
        check_type("copy_ranges", copy_ranges, list)
        check_timeout("sub_timeout_ms", sub_timeout_ms)
        if len(keys) != len(copy_ranges):
            raise ValueError(f"{len(keys)} keys, but {len(copy_ranges)} copy ranges")
        start, size = _pointer(tensor), bytes_of(tensor)
        lists = []
        for each in copy_ranges:
            check_type("copy_ranges, an element", each, CopyRange)
            for name in ("src_offset", "dst_offset", "length"):
                check_type(name, getattr(each, name), int)
            offset, length = int(each.dst_offset), int(each.length)  # numpy's would wrap
            if offset < 0 or length <= 0 or offset + length > size:
                raise ValueError(f"{each} does not fit into a tensor of {size} bytes")
            lists.append(DeviceBlobList(self._device_id, [Blob(start + offset, length)], int(each.src_offset)))
        offsets = [int(each.src_offset) for each in copy_ranges]
        return self._hetero_client._get_ranges(keys, lists, offsets, sub_timeout_ms)

    def dev_delete(self, keys: List[str]) -> List[str]:
        return self._hetero_client.dev_delete(keys)

    def async_dev_delete(self, keys: List[str]) -> Future:
        return self._hetero_client.async_dev_delete(keys)

    def dev_local_delete(self, keys: List[str]) -> List[str]:
        return self._hetero_client.dev_local_delete(keys)

    def dev_send(self, keys: List[str], tensors: List[Any]) -> List[Future]:
        """Offers tensors, each to one receiver."""
        return self._hetero_client.dev_publish(keys, self._lists(tensors))

    def dev_recv(self, keys: List[str], tensors: List[Any]) -> List[Future]:
        """Receives what dev_send offers or will offer."""
        return self._hetero_client.dev_subscribe(keys, self._lists(tensors))

    # ---- Paged attention: the blocks of all layers under one key each ------------------------------------------------

    def put_page_attn_layerwise_d2d(
        self, keys: List[str], layer_tensors: List[Any], block_ids: List[int]
    ) -> List[Future]:
        """Offers, under key i, block block_ids[i] of every layer."""
        return self._hetero_client.dev_publish(keys, self._blocks(layer_tensors, block_ids))

    def get_page_attn_layerwise_d2d(
        self, keys: List[str], layer_tensors: List[Any], block_ids: List[int]
    ) -> List[Future]:
        """Receives what put_page_attn_layerwise_d2d offers."""
        return self._hetero_client.dev_subscribe(keys, self._blocks(layer_tensors, block_ids))

    def mset_page_attn_blockwise_d2h(self, keys: List[str], layer_tensors: List[Any], block_ids: List[int]) -> Future:
        """Copies, under key i, block block_ids[i] of every layer to a host object."""
        param = SetParam()
        param.write_mode = WriteMode.NONE_L2_CACHE_EVICT
        return self._hetero_client.async_mset_d2h(keys, self._blocks(layer_tensors, block_ids), param)

    def mget_page_attn_blockwise_h2d(
        self, keys: List[str], layer_tensors: List[Any], block_ids: List[int], sub_timeout_ms: int = 0
    ) -> Future:
        """Reads what mset_page_attn_blockwise_d2h copied into those blocks."""
        return self._hetero_client.async_mget_h2d(keys, self._blocks(layer_tensors, block_ids), sub_timeout_ms)

    def _lists(self, tensors: List[Any]) -> List[DeviceBlobList]:
        check_type("tensors", tensors, list)
        return [DeviceBlobList(self._device_id, [Blob(_pointer(each), bytes_of(each))]) for each in tensors]

    def _blocks(self, layer_tensors: List[Any], block_ids: List[int]) -> List[DeviceBlobList]:
        check_type("layer_tensors", layer_tensors, list)
        check_type("block_ids", block_ids, list)
        if not layer_tensors or not block_ids:
            raise ValueError("layer_tensors and block_ids must not be empty")
        for number, each in enumerate(layer_tensors, 1):
            if len(getattr(each, "shape", (0,))) == 0:
                raise ValueError(f"layer tensor number {number} has no dimensions: the first one is that of its blocks")
        layers = [(_pointer(each), bytes_of(each) // int(each.shape[0]), int(each.shape[0])) for each in layer_tensors]
        lists = []
        for block in block_ids:
            check_type("block_ids, an element", block, int)
            for _, _, count in layers:
                if not 0 <= block < count:
                    raise ValueError(f"block {block} is not in a tensor of {count} blocks")
            blobs = [Blob(start + int(block) * size, size) for start, size, _ in layers]
            lists.append(DeviceBlobList(self._device_id, blobs))
        return lists


def _pointer(tensor: Any) -> int:
    """Address of a tensor in device memory. Raises TypeError or ValueError."""
    device_type = getattr(getattr(tensor, "device", None), "type", None)
    # numpy arrays tell no device; a worker refuses those that are not in device memory.
    if device_type is not None and device_type not in _DEVICE_TYPES:
        raise ValueError(f"{device_type} tensor, not one of {', '.join(_DEVICE_TYPES)}")
    pointer = pointer_of(tensor)
    if device_type == "Ascend" and hasattr(tensor, "storage_offset"):
        pointer += int(tensor.storage_offset()) * int(tensor.element_size())
    return pointer
