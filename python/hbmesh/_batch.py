"""What a call is about, as the C API takes it. Internal; see :mod:`hbmesh.client` for the interface."""

from __future__ import annotations

import ctypes
from array import array
from itertools import accumulate, chain
from typing import List, Optional, Sequence

from . import _native

_UINT32_MAX = 2**32 - 1


def check_keys(keys: Sequence[str]) -> List[str]:
    """The keys as a list. Raises TypeError for one that is no string, and for a string in place of a list."""
    if isinstance(keys, (str, bytes)) or not hasattr(keys, "__iter__"):
        raise TypeError(f"keys must be a list of strings, not {type(keys).__name__}")
    listed = list(keys)
    for number, key in enumerate(listed, 1):
        if not isinstance(key, str):
            raise TypeError(f"key number {number} is {type(key).__name__}: keys are strings")
    return listed


def check_uint(value: int, name: str, limit: int = _UINT32_MAX) -> int:
    """A whole number from 0 to `limit`. Raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if not 0 <= value <= limit:
        raise ValueError(f"{name} is {value}: it must be from 0 to {limit}")
    return value


def _numbers(values: Sequence[Sequence[int]], name: str) -> "array[int]":
    try:
        return array("Q", chain.from_iterable(values))
    except OverflowError as error:
        raise ValueError(f"{name} must be from 0 to 2^64 - 1") from error
    except TypeError as error:
        raise TypeError(f"{name} must be whole numbers, a list of them for each key: {error}") from error


class CallBatch:
    """Keys and blobs of one call. The struct borrows from this object, which must outlive the call."""

    def __init__(
        self,
        keys: Optional[Sequence[str]],
        device_index: int = 0,
        pointers: Sequence[Sequence[int]] = (),
        sizes: Sequence[Sequence[int]] = (),
    ) -> None:
        batch = _native.made(_native.Batch)
        count = len(pointers)
        if keys is not None:
            self.names = check_keys(keys)
            count = len(self.names)
            encoded = [key.encode() for key in self.names]
            self._keys = (ctypes.c_char_p * count)(*encoded)
            self._key_bytes = array("I", map(len, encoded))
            batch.keys = ctypes.addressof(self._keys)
            batch.key_bytes = self._key_bytes.buffer_info()[0]
        else:
            self.names = [str(number) for number in range(count)]
        batch.key_count = count
        if len(pointers) > 0:
            self._set_blobs(batch, count, pointers, sizes)
        batch.device_index = check_uint(device_index, "device index")
        self.struct = batch

    def _set_blobs(
        self,
        batch: _native.Batch,
        count: int,
        pointers: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
    ) -> None:
        if len(pointers) != count or len(sizes) != count:
            raise ValueError(
                f"{count} keys, but {len(pointers)} lists of pointers and {len(sizes)} lists of sizes: one of each "
                "belongs to each key"
            )
        lengths = list(map(len, pointers))
        if lengths != list(map(len, sizes)):
            number = next(i for i in range(count) if lengths[i] != len(sizes[i]))
            raise ValueError(
                f"key {self.names[number]!r} has {lengths[number]} pointers and {len(sizes[number])} sizes"
            )
        if 0 in lengths:
            raise ValueError(f"key {self.names[lengths.index(0)]!r} has no blobs: an object has at least one")
        self._ends = array("I", accumulate(lengths))
        self._pointers = _numbers(pointers, "pointers")
        self._sizes = _numbers(sizes, "sizes")
        batch.blob_count = len(self._pointers)
        batch.blob_ends = self._ends.buffer_info()[0]
        batch.pointers = self._pointers.buffer_info()[0]
        batch.blob_bytes = self._sizes.buffer_info()[0]
