"""Host bytes as objects: values that are not in device memory go through a staging buffer on a device.

hbmesh moves device memory. Values of ordinary memory (bytes, CPU tensors) are copied to a buffer on one device first,
and back after a get. On simulated devices that is one memory copy; on cards it crosses the bus twice, so what is on a
card already should be given as it is.

The values' own memory is used by the calling thread alone, and free again when the call returns, whatever it raises:
what a worker may still read or write after a call that it did not confirm to have ended is the buffer.
"""

from __future__ import annotations

import ctypes
import sys
import time
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, TypeVar

from ._batch import check_keys
from ._stop import Stop
from ._values import host_views
from .client import Client
from .devices import SimDevice
from .errors import StatusCode, error_of
from .futures import TransferFuture, finish
from .results import BatchResult, MetaResult, WriteResult

R = TypeVar("R", bound=BatchResult)

# Staging memory of one call: larger ones go in several parts, so that a card's memory stays its owner's.
STAGING_BYTES_MAX = 64 << 20
# How often an object that was replaced by one of another shape, between the look at its shape and the get, is got anew.
_REPLACED_MAX = 32
# ... and how often one whose shape seems to be the same: it is of another family, or its owner hears of it in a moment.
_SAME_SHAPE_MAX, _AGAIN_SECONDS = 5, 0.002

Take = Callable[[int, List[int], Callable[[int, Any], None]], None]

_HOST_TO_DEVICE, _DEVICE_TO_HOST, _DEVICE_TO_DEVICE = 1, 2, 3


class SimMemory:
    """Memory of simulated devices."""

    @contextmanager
    def on(self, device_index: int) -> Iterator[None]:
        yield

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
    """Memory of cards, through pyACL, which allocates and copies on the calling thread's device."""

    def __init__(self, acl: Any) -> None:
        self._acl = acl

    def _checked(self, code: int, doing: str) -> None:
        if code != 0:
            raise error_of(StatusCode.ACL_ERROR, f"{doing} failed with acl {code}: look it up in the log of the driver")

    @contextmanager
    def on(self, device_index: int) -> Iterator[None]:
        """The thread works on that device within the block, and then on its own again; one that had none keeps it."""
        before, code = self._acl.rt.get_device()
        moves = code != 0 or before != device_index
        if moves:
            self._checked(self._acl.rt.set_device(device_index), f"acl.rt.set_device({device_index})")
        try:
            yield
        finally:
            if moves and code == 0:
                self._checked(self._acl.rt.set_device(before), f"acl.rt.set_device({before})")

    def allocate(self, device_index: int, size: int) -> int:
        """REQUIRES: within on(device_index)."""
        pointer, code = self._acl.rt.malloc(size, 0)
        self._checked(code, f"acl.rt.malloc of {size} bytes on device {device_index}")
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
    def staged(self, sizes: Sequence[Sequence[int]]) -> "Iterator[Staging]":
        """Staging memory for blobs of these sizes, for the time of a block."""
        with self.memory.on(self.device_index):
            staging = Staging(self.memory, self.device_index, sizes)
            try:
                yield staging
            finally:
                staging.leave()

    def finish(self, call: "TransferFuture[R]", staging: "Staging", stop: Optional[Stop] = None) -> R:
        """The end of a call about the staging memory; what ends the wait ends the call."""
        call.keep(staging)
        try:
            return finish(call) if stop is None else stop.finish(call)
        finally:
            staging.borrowed = staging.borrowed or not call.done

    def put(
        self,
        keys: Sequence[str],
        values: Sequence[Sequence[Any]],
        *,
        existence: str = "skip",
        ttl_seconds: float = 0,
        pin: str = "none",
        checksum: bool = False,
        stop: Optional[Stop] = None,
    ) -> WriteResult:
        """Sets objects of one or more pieces each: bytes, what has a contiguous buffer, numpy arrays of any data type,
        tensors on the CPU. Options as of :meth:`Client.mset_d2h`.

        Args:
            stop: what asks this call to end; it then raises RPC_CANCELLED. Keys of parts that were done are set.
        """
        names = check_keys(keys)
        if len(names) != len(values):
            raise ValueError(f"{len(names)} keys, but {len(values)} values: one belongs to each key")
        if len(set(names)) < len(names):
            twice = next(name for number, name in enumerate(names) if name in names[:number])
            raise error_of(StatusCode.INVALID, f"key {twice!r} is in the call twice", key=twice)
        views = [host_views(name, value) for name, value in zip(names, values)]
        sizes = [[view.nbytes for view in each] for each in views]
        result: Optional[WriteResult] = None
        for part in parts_of(range(len(names)), sizes):
            with self.staged([sizes[index] for index in part]) as staging:
                for index, row in zip(part, staging.rows):
                    for view, address in zip(views[index], row):
                        _check(stop)
                        self.memory.copy_in(address, view)
                _check(stop)
                call = self.client.mset_d2h_from_multi_buffers_async(
                    [names[index] for index in part],
                    staging.rows,
                    [sizes[index] for index in part],
                    device_index=self.device_index,
                    existence=existence,
                    ttl_seconds=ttl_seconds,
                    pin=pin,
                    checksum=checksum,
                )
                done = self.finish(call, staging, stop)
            result = done if result is None else result.followed_by(done)
        if result is None:
            raise error_of(StatusCode.INVALID, "no keys given: a call needs at least one")
        return result

    def get(self, keys: Sequence[str], *, timeout_ms: int = 0) -> Tuple[BatchResult, List[Optional[List[bytearray]]]]:
        """Gets objects of whatever shape: a result, and by key its blobs' bytes, or None where it failed."""
        found: List[Optional[List[bytearray]]] = [None] * len(keys)

        def take(index: int, sizes: List[int], read: Callable[[int, Any], None]) -> None:
            blobs = [bytearray(size) for size in sizes]
            for blob, target in enumerate(blobs):
                read(blob, target)
            found[index] = blobs

        return self.get_each(keys, take, timeout_ms=timeout_ms), found

    def get_each(
        self, keys: Sequence[str], take: Take, *, timeout_ms: int = 0, stop: Optional[Stop] = None
    ) -> BatchResult:
        """Gets objects of whatever shape. For each that is there it calls `take(index of the key, blob sizes, read)`,
        which may call `read(blob, target)` to copy a blob into a writable buffer of its size.

        Args:
            stop: what asks this call to end; it then raises RPC_CANCELLED.
        """
        metas = self.client.get_meta_info(keys)
        if timeout_ms > 0 and not metas:
            self._await(metas.failed_keys, timeout_ms, stop)
            metas = self.client.get_meta_info(keys)
        wanted = [index for index, meta in enumerate(metas.metas) if meta is not None]
        unchanged: Dict[int, int] = {}  # how often in a row a refused one seemed to have the same shape
        for _ in range(_REPLACED_MAX):
            sizes = {index: meta.blob_sizes for index, meta in enumerate(metas.metas) if meta is not None}
            for part in parts_of(wanted, sizes):
                self._get_part(metas, part, sizes, take, stop)
            wanted = self._refused(metas, wanted, unchanged)
            if not wanted:
                break
        for index in wanted:
            metas.note(index, StatusCode.TRY_AGAIN, "it is replaced by ones of other lengths all the time: try again")
        return metas

    def _get_part(
        self,
        metas: MetaResult,
        part: Sequence[int],
        sizes: Dict[int, List[int]],
        take: Take,
        stop: Optional[Stop],
    ) -> None:
        _check(stop)
        shapes = [sizes[index] for index in part]
        with self.staged(shapes) as staging:
            names = [metas.keys[index] for index in part]
            call = self.client.mget_h2d_from_multi_buffers_async(
                names, staging.rows, shapes, device_index=self.device_index
            )
            got = self.finish(call, staging, stop)
            for index, code, row, shape in zip(part, got.codes, staging.rows, shapes):
                _check(stop)
                if code == StatusCode.OK:
                    take(index, shape, self._reader(row))
        metas.merged(got, part)

    def _refused(self, metas: MetaResult, asked: Sequence[int], unchanged: Dict[int, int]) -> List[int]:
        """Which of these were refused because they have got another shape meanwhile. Their new one is noted, as far as
        the owner knows it already: it hears of an object after its holder."""
        refused = [index for index in asked if metas.codes[index] == StatusCode.INVALID]
        if not refused:
            return []
        again = []
        now = self.client.get_meta_info([metas.keys[index] for index in refused])
        for index, meta, status in zip(refused, now.metas, now):
            before = metas.metas[index]
            if meta is None or before is None:
                metas.note(index, status.code, status.message)
                continue
            unchanged[index] = unchanged.get(index, 0) + 1 if meta.blob_sizes == before.blob_sizes else 0
            if unchanged[index] <= _SAME_SHAPE_MAX:
                again.append(index)
                metas.metas[index] = meta
        if any(unchanged[index] > 0 for index in again):
            time.sleep(_AGAIN_SECONDS)
        return again

    def _reader(self, addresses: Sequence[int]) -> Callable[[int, Any], None]:
        def read(blob: int, target: Any) -> None:
            self.memory.copy_into(target, addresses[blob])

        return read

    def _await(self, missing: Sequence[str], timeout_ms: int, stop: Optional[Stop]) -> None:
        """Waits until the missing keys are there, or the time is over: a get of one byte is refused for its shape as
        soon as the key is there, and waits until then."""
        sizes = [[1]] * len(missing)
        with self.staged(sizes) as staging:
            call = self.client.mget_h2d_from_multi_buffers_async(
                missing, staging.rows, sizes, device_index=self.device_index, timeout_ms=timeout_ms
            )
            self.finish(call, staging, stop)


class Staging:
    """Memory on a device for the blobs of a call.

    Attributes:
        rows: by key, the address of each blob.
        borrowed: a call about it has not ended: its future keeps this memory until it has.
    """

    def __init__(self, memory: Any, device_index: int, sizes: Sequence[Sequence[int]]) -> None:
        self.borrowed = False
        self._memory, self._device_index = memory, device_index
        totals = list(map(sum, sizes))
        self._start: int = memory.allocate(device_index, sum(totals))
        self.rows = [_places(at, each) for at, each in zip(_places(self._start, totals), sizes)]

    def leave(self) -> None:
        """Its block is over."""
        if not self.borrowed:
            self._free()

    def _free(self) -> None:
        start, self._start = self._start, 0
        if start:
            with self._memory.on(self._device_index):
                self._memory.free(start)

    def __del__(self) -> None:
        if getattr(self, "_start", 0):
            self._free()


def _check(stop: Optional[Stop]) -> None:
    if stop is not None:
        stop.check()


def _places(start: int, sizes: Sequence[int]) -> List[int]:
    """Where pieces of these sizes begin that follow each other."""
    return list(accumulate(sizes[:-1], initial=start)) if sizes else []


def parts_of(indices: Sequence[int], sizes: Any) -> Iterator[List[int]]:
    """The indices in parts whose sizes together are within the limit; one that is larger alone is a part."""
    part: List[int] = []
    total = 0
    for index in indices:
        size = sum(sizes[index])
        if part and total + size > STAGING_BYTES_MAX:
            yield part
            part, total = [], 0
        part.append(index)
        total += size
    if part:
        yield part
