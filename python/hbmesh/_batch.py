"""What a call is about, as the C API takes it. Internal; see :mod:`hbmesh.client` for the interface."""

from __future__ import annotations

import ctypes
from array import array
from itertools import accumulate, chain
from typing import List, Optional, Sequence

from . import _native
from ._values import whole
from .blobs import DeviceBlobList, flatten

_UINT32_MAX = 2**32 - 1
_EXISTENCE = {"skip": 0, "fail": 1, "replace": 2}
_PIN = {"none": 0, "soft": 1, "hard": 2}
_TTL_SECONDS_MAX = 10 * 365 * 86_400


def check_keys(keys: Sequence[str]) -> List[str]:
    """The keys as a list. Raises TypeError for one that is no string, and for a string in place of a list."""
    if isinstance(keys, (str, bytes)) or not hasattr(keys, "__iter__"):
        raise TypeError(f"keys must be a list of strings, not {type(keys).__name__}")
    listed = list(keys)
    for number, key in enumerate(listed, 1):
        if not isinstance(key, str):
            raise TypeError(f"key number {number} is {type(key).__name__}: keys are strings")
    return listed


def encoded_text(text: str, name: str) -> bytes:
    """For the C API's zero-terminated strings. Raises TypeError for what is no string, ValueError for a zero in it."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string, not {type(text).__name__}")
    if "\0" in text:
        raise ValueError(f"{name} has a zero character in it: {text!r}")
    return text.encode()


def check_uint(value: int, name: str, limit: int = _UINT32_MAX) -> int:
    """A whole number from 0 to `limit`, also one of numpy's, as int. Raises TypeError or ValueError."""
    number = whole(value)
    if number is None:
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if not 0 <= number <= limit:
        raise ValueError(f"{name} is {number}: it must be from 0 to {limit}")
    return number


def _numbers(values: Sequence[Sequence[int]], name: str) -> "array[int]":
    try:
        return array("Q", chain.from_iterable(values))
    except OverflowError as error:
        raise ValueError(f"{name} must be from 0 to 2^64 - 1") from error
    except TypeError as error:
        raise TypeError(f"{name} must be whole numbers, a list of them for each key: {error}") from error


class CallBatch:
    """Keys and blobs of one call. The struct borrows from this object, which must outlive the call.

    Attributes:
        owners: what keeps the device memory; futures hold on to it.
    """

    owners: Sequence[DeviceBlobList] = ()

    def __init__(
        self,
        keys: Optional[Sequence[str]],
        device_index: int = 0,
        pointers: Optional[Sequence[Sequence[int]]] = None,
        sizes: Sequence[Sequence[int]] = (),
    ) -> None:
        batch = _native.made(_native.Batch)
        count = 0 if pointers is None else len(pointers)
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
        if pointers is not None:
            self._set_blobs(batch, count, pointers, sizes)
        batch.device_index = check_uint(device_index, "device index")
        self.struct = batch

    @property
    def total_bytes(self) -> int:
        return sum(self._sizes) if self.struct.blob_count > 0 else 0

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


def set_options(
    existence: str = "skip", ttl_seconds: float = 0, pin: str = "none", checksum: bool = False
) -> _native.SetOptions:
    """The options of a set as the C API takes them. Raises ValueError for one that is none."""
    if existence not in _EXISTENCE:
        raise ValueError(f"existence {existence!r} is none of {', '.join(_EXISTENCE)}")
    if pin not in _PIN:
        raise ValueError(f"pin {pin!r} is none of {', '.join(_PIN)}")
    if not 0 <= ttl_seconds <= _TTL_SECONDS_MAX:
        raise ValueError(f"ttl_seconds is {ttl_seconds}: it must be from 0 to {_TTL_SECONDS_MAX}")
    options = _native.made(_native.SetOptions)
    options.existence = _EXISTENCE[existence]
    options.pin = _PIN[pin]
    # Never rounded to 0, which would be for ever.
    options.ttl_ms = 0 if ttl_seconds == 0 else max(1, round(float(ttl_seconds) * 1000))
    options.checksum = int(bool(checksum))
    return options


def batch_of(keys: Sequence[str], blob_lists: Sequence[DeviceBlobList]) -> CallBatch:
    """Keys and their blob lists as one call."""
    names = check_keys(keys)
    if len(names) != len(blob_lists):
        raise ValueError(f"{len(names)} keys, but {len(blob_lists)} blob lists: one belongs to each key")
    batch = CallBatch(names, *flatten(blob_lists))
    batch.owners = list(blob_lists)
    return batch
