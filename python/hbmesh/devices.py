"""Device memory of this process: simulated devices, and which device a thread works on."""

from __future__ import annotations

import ctypes
import math
import sys
import threading
import weakref
from typing import Any, Optional, Tuple

from . import _native
from ._batch import check_uint
from ._values import host_view, whole
from .errors import StatusCode, error_of

_UINT64_MAX = 2**64 - 1


def _checked(status: int) -> None:
    if status != StatusCode.OK:
        raise error_of(status, _native.load().last_text())


class SimDevice:
    """A simulated device: memory of this process that stands for HBM where there is no accelerator.

    Pointers are real addresses; workers reach the memory as they would reach that of a card. There are 64 devices; a
    worker serves those that it was started with.

    Args:
        index: from 0 on.
    """

    def __init__(self, index: int) -> None:
        self.index = check_uint(index, "device index", 63)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes, contents undefined, aligned to 512.

        Raises:
            InvalidError: 0 bytes.
            OutOfMemoryError: the device has no more.
        """
        pointer = ctypes.c_uint64(0)
        _checked(_native.load().sim_allocate(self.index, check_uint(size, "size", _UINT64_MAX), ctypes.byref(pointer)))
        return pointer.value

    @staticmethod
    def free(pointer: int) -> None:
        """Takes back what :meth:`allocate` gave. Raises InvalidError for anything else."""
        _checked(_native.load().sim_free(check_uint(pointer, "pointer", _UINT64_MAX)))

    @staticmethod
    def copy_in(pointer: int, data: Any) -> None:
        """Writes bytes (anything with a contiguous buffer) to device memory.

        Raises:
            InvalidError: no device memory.
            HbmeshError: OUT_OF_RANGE, more than the allocation has.
        """
        pointer = check_uint(pointer, "pointer", _UINT64_MAX)
        if isinstance(data, bytes):
            _checked(_native.load().sim_copy_in(pointer, data, len(data)))
            return
        view = host_view(data, "the data", 0)
        if view.nbytes == 0:
            return
        kind = ctypes.c_char * view.nbytes
        held = kind.from_buffer_copy(view) if view.readonly else kind.from_buffer(view)
        _checked(_native.load().sim_copy_in(pointer, ctypes.addressof(held), view.nbytes))

    @staticmethod
    def copy_out(pointer: int, size: int) -> bytes:
        """Reads `size` bytes of device memory. Raises as :meth:`copy_in`."""
        target = bytearray(check_uint(size, "size", _UINT64_MAX))
        SimDevice.copy_into(target, pointer)
        return bytes(target)

    @staticmethod
    def copy_into(target: Any, pointer: int) -> None:
        """Reads device memory into a writable buffer, as many bytes as that has. Raises as :meth:`copy_in`."""
        view = host_view(target, "the target", 0)
        if view.readonly:
            raise TypeError(f"the target is a {type(target).__name__}, which can't be written to: give a bytearray")
        if view.nbytes == 0:
            return
        held = (ctypes.c_char * view.nbytes).from_buffer(view)
        _checked(
            _native.load().sim_copy_out(
                ctypes.addressof(held), check_uint(pointer, "pointer", _UINT64_MAX), view.nbytes
            )
        )

    def buffer(self, size: int) -> "SimBuffer":
        """Device memory that is freed with its last reference."""
        return SimBuffer(self, size)

    def array(self, shape: Any, dtype: Any = "uint8") -> Any:
        """A numpy array over new device memory, freed with the array and its views. Needs numpy.

        Args:
            shape: as of ``numpy.empty``.
            dtype: as of ``numpy.empty``.
        """
        try:
            import numpy
        except ImportError as error:
            raise ImportError("SimDevice.array needs numpy: install it, or use buffer(size)") from error
        kind = numpy.dtype(dtype)
        if kind.hasobject:
            raise TypeError(f"dtype {kind} has Python objects: device memory has values only, give another data type")
        lengths = [shape] if whole(shape) is not None else list(shape)
        for length in lengths:
            check_uint(length, f"shape is {shape}, a length in it", _UINT64_MAX)
        length = math.prod(map(int, lengths)) * kind.itemsize
        if length == 0:
            raise ValueError(f"an array of shape {shape} has no bytes: device memory is at least one byte")
        buffer = self.buffer(length)
        return numpy.frombuffer(buffer.memory, dtype=kind).reshape(shape)

    def __repr__(self) -> str:
        return f"SimDevice({self.index})"


class SimBuffer:
    """Simulated device memory with an owner. `memory` is a ctypes array over it, for views; they keep it alive.

    Attributes:
        pointer: its address.
        size: bytes.
        device_index: where it is.
    """

    def __init__(self, device: SimDevice, size: int) -> None:
        self.pointer = device.allocate(size)
        self.size = size
        self.device_index = device.index
        self.memory = (ctypes.c_uint8 * size).from_address(self.pointer)
        # When the last view is gone; at exit the memory goes with the process.
        owner: Any = weakref.finalize(self.memory, _free_quietly, self.pointer, _native.generation())
        owner.atexit = False

    def data_ptr(self) -> int:
        return self.pointer

    def element_size(self) -> int:
        return 1

    def numel(self) -> int:
        return self.size

    def is_contiguous(self) -> bool:
        return True


def _free_quietly(pointer: int, generation: int) -> None:
    if generation == _native.generation():
        _native.load().sim_free(pointer)


_chosen = threading.local()


def set_device(index: Optional[int]) -> None:
    """Names the device that the calling thread works on, for calls that take it from there; None: asks acl again."""
    _chosen.index = None if index is None else check_uint(index, "device index")


def current_device() -> Optional[int]:
    """The calling thread's device: as :func:`set_device` said, else as ``acl.rt.set_device`` or torch did. None where
    nobody has."""
    index = getattr(_chosen, "index", None)
    if index is not None:
        return int(index)
    acl = sys.modules.get("acl")
    if acl is not None and hasattr(acl, "rt"):
        answer: Tuple[int, int] = acl.rt.get_device()
        if answer[1] == 0:
            return int(answer[0])
    torch = sys.modules.get("torch")
    for name in ("npu", "cuda"):
        module = getattr(torch, name, None)
        if module is not None and module.is_available() and module.is_initialized():
            return int(module.current_device())
    return None
