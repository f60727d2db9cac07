"""Host bytes as objects: values that are not in device memory go through a staging buffer on a device.

hbmesh moves device memory. Values of ordinary memory (bytes, CPU tensors) are copied to a buffer on one device first,
and back after a get. On simulated devices that is one memory copy; on cards it crosses the bus twice, so what is on a
card already should be given as it is.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

from .client import Client
from .devices import SimDevice
from .errors import StatusCode, error_of
from .results import BatchResult, WriteResult

Take = Callable[[int, List[int], Callable[[int, Any], None]], None]

_HOST_TO_DEVICE, _DEVICE_TO_HOST, _DEVICE_TO_DEVICE = 1, 2, 3


class SimMemory:
    """Memory of simulated devices."""

    def allocate(self, device_index: int, size: int) -> int:
        return SimDevice(device_index).allocate(size)

    def free(self, pointer: int) -> None:
        SimDevice.free(pointer)

    def copy_in(self, pointer: int, data: Any) -> None:
        SimDevice.copy_in(pointer, data)

    def copy_into(self, target: Any, pointer: int) -> None:
        SimDevice.copy_into(target, pointer)

    def copy_device(self, target: int, source: int, size: int) -> None:
        SimDevice.copy_in(target, (ctypes.c_char * size).from_address(source))


class AclMemory:
    """Memory of cards, through pyACL. A thread that has no device yet gets that of its first allocation."""

    def __init__(self, acl: Any) -> None:
        self._acl = acl

    def _checked(self, code: int, doing: str) -> None:
        if code != 0:
            raise error_of(StatusCode.ACL_ERROR, f"{doing} failed with acl {code}: look it up in the log of the driver")

    def allocate(self, device_index: int, size: int) -> int:
        if self._acl.rt.get_device()[1] != 0:
            self._checked(self._acl.rt.set_device(device_index), f"acl.rt.set_device({device_index})")
        pointer, code = self._acl.rt.malloc(size, 0)
        self._checked(code, f"acl.rt.malloc of {size} bytes")
        return int(pointer)

    def free(self, pointer: int) -> None:
        self._checked(self._acl.rt.free(pointer), "acl.rt.free")

    def copy_in(self, pointer: int, data: Any) -> None:
        held = bytes(data)
        code = self._acl.rt.memcpy(pointer, len(held), self._acl.util.bytes_to_ptr(held), len(held), _HOST_TO_DEVICE)
        self._checked(code, "acl.rt.memcpy to the device")

    def copy_into(self, target: Any, pointer: int) -> None:
        view = memoryview(target)
        held = (ctypes.c_char * view.nbytes).from_buffer(view)
        code = self._acl.rt.memcpy(ctypes.addressof(held), view.nbytes, pointer, view.nbytes, _DEVICE_TO_HOST)
        self._checked(code, "acl.rt.memcpy from the device")

    def copy_device(self, target: int, source: int, size: int) -> None:
        self._checked(self._acl.rt.memcpy(target, size, source, size, _DEVICE_TO_DEVICE), "acl.rt.memcpy on the device")


def memory_of(backend: str) -> Any:
    """What allocates and copies device memory of a worker's backend ("sim", "ascend")."""
    if backend == "sim":
        return SimMemory()
    acl = sys.modules.get("acl")
    if acl is None:
        import acl  # type: ignore[no-redef]
    return AclMemory(acl)


class HostObjects:
    """Sets and gets of bytes in ordinary memory.

    Thread rule: any thread.

    Args:
        client: a connected client; borrowed.
        device_index: where the staging buffers are.
    """

    def __init__(self, client: Client, device_index: int = 0) -> None:
        self.client = client
        self.device_index = device_index
        self._memory: Optional[Any] = None

    @property
    def memory(self) -> Any:
        if self._memory is None:
            self._memory = memory_of(self.client.health_check().backend)
        return self._memory

    @contextmanager
    def staged(self, sizes: Sequence[Sequence[int]]) -> Iterator[List[List[int]]]:
        """Addresses of staging memory for blobs of these sizes, for the time of a block."""
        total = sum(sum(each) for each in sizes)
        start = self.memory.allocate(self.device_index, total)
        try:
            addresses, at = [], start
            for each in sizes:
                row = []
                for size in each:
                    row.append(at)
                    at += size
                addresses.append(row)
            yield addresses
        finally:
            self.memory.free(start)

    def put(self, keys: Sequence[str], values: Sequence[Sequence[Any]], **options: Any) -> WriteResult:
        """Sets objects of one or more buffers each; `options` as of :meth:`Client.mset_d2h`."""
        views = [[memoryview(piece) for piece in value] for value in values]
        sizes = [[view.nbytes for view in each] for each in views]
        with self.staged(sizes) as addresses:
            for each, row in zip(views, addresses):
                for view, address in zip(each, row):
                    self.memory.copy_in(address, view)
            return self.client.mset_d2h_from_multi_buffers(
                keys, addresses, sizes, device_index=self.device_index, **options
            )

    def get(self, keys: Sequence[str], *, timeout_ms: int = 0) -> Tuple[BatchResult, List[Optional[List[bytearray]]]]:
        """Gets objects of whatever shape: a result, and by key its blobs' bytes, or None where it failed."""
        found: List[Optional[List[bytearray]]] = [None] * len(keys)

        def take(index: int, sizes: List[int], read: Callable[[int, Any], None]) -> None:
            blobs = [bytearray(size) for size in sizes]
            for blob, target in enumerate(blobs):
                read(blob, target)
            found[index] = blobs

        return self.get_each(keys, take, timeout_ms=timeout_ms), found

    def get_each(self, keys: Sequence[str], take: Take, *, timeout_ms: int = 0) -> BatchResult:
        """Gets objects of whatever shape. For each that is there it calls `take(index of the key, blob sizes, read)`,
        which may call `read(blob, target)` to copy a blob into a writable buffer of its size."""
        metas = self.client.get_meta_info(keys)
        if timeout_ms > 0 and not metas:
            self._await(metas.failed_keys, timeout_ms)
            metas = self.client.get_meta_info(keys)
        known = [index for index, meta in enumerate(metas.metas) if meta is not None]
        if not known:
            return metas
        sizes = [metas.metas[index].blob_sizes for index in known]  # type: ignore[union-attr]
        with self.staged(sizes) as addresses:
            names = [metas.keys[index] for index in known]
            got = self.client.mget_h2d_from_multi_buffers(names, addresses, sizes, device_index=self.device_index)
            for place, index in enumerate(known):
                if got.codes[place] == StatusCode.OK:
                    take(index, sizes[place], self._reader(addresses[place]))
        return metas.merged(got, known)

    def _reader(self, addresses: Sequence[int]) -> Callable[[int, Any], None]:
        def read(blob: int, target: Any) -> None:
            self.memory.copy_into(target, addresses[blob])

        return read

    def _await(self, missing: Sequence[str], timeout_ms: int) -> None:
        """Waits until the missing keys are there, or the time is over: a get of one byte is refused for its shape as
        soon as the key is there, and waits until then."""
        with self.staged([[1]] * len(missing)) as addresses:
            self.client.mget_h2d_from_multi_buffers(
                missing, addresses, [[1]] * len(missing), device_index=self.device_index, timeout_ms=timeout_ms
            )
