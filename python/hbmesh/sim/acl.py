"""The `acl` module over simulated devices: the part of pyACL that scripts use to fill and read device memory.

Functions return what pyACL's return: a code, 0 when it worked, after the values where there are some. Codes are those
of the runtime: 107001 for a device that isn't there, 107002 before set_device, 107000 for a pointer or size that is
wrong, 207001 when a device has no more memory. Streams and contexts are numbers; copies are done when their call
returns.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from itertools import count
from operator import index
from types import ModuleType
from typing import Any, Callable, Dict, Optional, Tuple

from ..devices import SimDevice
from ..errors import HbmeshError, StatusCode

OK = 0
INVALID_PARAMETER = 107000
INVALID_DEVICE = 107001
NO_CONTEXT = 107002
NO_MEMORY = 207001
HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = range(4)

# Types of numpy's C API, as acl.util.ptr_to_numpy takes them.
_NUMPY_TYPES = {
    0: "bool", 1: "int8", 2: "uint8", 3: "int16", 4: "uint16", 5: "int32", 6: "uint32", 7: "int64", 8: "uint64",
    9: "int64", 10: "uint64", 11: "float32", 12: "float64", 23: "float16",
}  # fmt: skip


class _Runtime:
    """State of acl.rt: which device a thread works on, what is allocated."""

    def __init__(self, devices: int) -> None:
        self.devices = devices
        self._thread = threading.local()
        self._numbers = count(1)
        self._contexts: Dict[int, int] = {}
        self._host: Dict[int, Any] = {}

    # ---- Devices and contexts --------------------------------------------------------------------------------------

    def set_device(self, device_id: int) -> int:
        if not 0 <= device_id < self.devices:
            return INVALID_DEVICE
        self._thread.device = device_id
        return OK

    def reset_device(self, device_id: int) -> int:
        if not 0 <= device_id < self.devices:
            return INVALID_DEVICE
        if getattr(self._thread, "device", None) == device_id:
            self._thread.device = None
        return OK

    def get_device(self) -> Tuple[int, int]:
        device = getattr(self._thread, "device", None)
        return (-1, NO_CONTEXT) if device is None else (device, OK)

    def get_device_count(self) -> Tuple[int, int]:
        return self.devices, OK

    def create_context(self, device_id: int) -> Tuple[int, int]:
        if self.set_device(device_id) != OK:
            return 0, INVALID_DEVICE
        number = next(self._numbers)
        self._contexts[number] = device_id
        return number, OK

    def set_context(self, context: int) -> int:
        device = self._contexts.get(context)
        return INVALID_PARAMETER if device is None else self.set_device(device)

    def get_context(self) -> Tuple[int, int]:
        device, code = self.get_device()
        return (0, code) if code != OK else (self._default_context(device), OK)

    def _default_context(self, device: int) -> int:
        """A number that set_context takes; contexts of a device are all the same here."""
        for number, of in list(self._contexts.items()):
            if of == device:
                return number
        return self.create_context(device)[0]

    def get_run_mode(self) -> Tuple[int, int]:
        return 1, OK  # ACL_HOST

    def destroy_context(self, context: int) -> int:
        return INVALID_PARAMETER if self._contexts.pop(context, None) is None else OK

    def create_stream(self) -> Tuple[int, int]:
        return next(self._numbers), OK

    def destroy_stream(self, stream: int) -> int:
        return OK

    def synchronize_stream(self, stream: int) -> int:
        return OK

    def synchronize_stream_with_timeout(self, stream: int, timeout_ms: int) -> int:
        return OK

    def synchronize_device(self) -> int:
        return OK

    def create_event(self) -> Tuple[int, int]:
        return next(self._numbers), OK

    def record_event(self, event: int, stream: int) -> int:
        return OK

    def synchronize_event(self, event: int) -> int:
        return OK

    def destroy_event(self, event: int) -> int:
        return OK

    # ---- Memory ----------------------------------------------------------------------------------------------------

    def malloc(self, size: int, policy: int) -> Tuple[int, int]:
        device, code = self.get_device()
        if code != OK:
            return 0, code
        if size <= 0:
            return 0, INVALID_PARAMETER
        try:
            return SimDevice(device).allocate(size), OK
        except HbmeshError as error:
            return 0, NO_MEMORY if error.code == StatusCode.OUT_OF_MEMORY else INVALID_PARAMETER

    def malloc_cached(self, size: int, policy: int) -> Tuple[int, int]:
        return self.malloc(size, policy)

    def free(self, pointer: int) -> int:
        return _code(lambda: SimDevice.free(pointer))

    def malloc_host(self, size: int) -> Tuple[int, int]:
        if size <= 0:
            return 0, INVALID_PARAMETER
        memory = ctypes.create_string_buffer(size)
        self._host[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory), OK

    def free_host(self, pointer: int) -> int:
        return INVALID_PARAMETER if self._host.pop(pointer, None) is None else OK

    def memcpy(self, dst: int, dst_max: int, src: int, size: int, kind: int) -> int:
        dst, dst_max, src, size = map(index, (dst, dst_max, src, size))  # also numpy's
        if size < 0 or size > dst_max or 0 in (dst, src):
            return INVALID_PARAMETER
        if size == 0:
            return OK
        if kind == HOST_TO_HOST:
            ctypes.memmove(dst, src, size)
            return OK
        if kind == HOST_TO_DEVICE:
            return _code(lambda: SimDevice.copy_in(dst, (ctypes.c_char * size).from_address(src)))
        if kind == DEVICE_TO_HOST:
            return _code(lambda: SimDevice.copy_into((ctypes.c_char * size).from_address(dst), src))
        if kind == DEVICE_TO_DEVICE:
            return _code(lambda: SimDevice.copy_in(dst, SimDevice.copy_out(src, size)))
        return INVALID_PARAMETER

    def memcpy_async(self, dst: int, dst_max: int, src: int, size: int, kind: int, stream: int) -> int:
        return self.memcpy(dst, dst_max, src, size, kind)

    def memset(self, dst: int, dst_max: int, value: int, size: int) -> int:
        dst, dst_max, size = map(index, (dst, dst_max, size))
        if size < 0 or size > dst_max:
            return INVALID_PARAMETER
        return _code(lambda: SimDevice.copy_in(dst, bytes([value & 0xFF]) * size)) if size > 0 else OK

    def memset_async(self, dst: int, dst_max: int, value: int, size: int, stream: int) -> int:
        return self.memset(dst, dst_max, value, size)


def _code(work: Callable[[], None]) -> int:
    try:
        work()
        return OK
    except (HbmeshError, ValueError):
        return INVALID_PARAMETER


class _Lately:
    """Owners of addresses that were handed out, kept for a while: scripts make a temporary in the very expression that
    uses its address, as in ``acl.rt.memcpy(device, n, acl.util.bytes_to_ptr(text.encode()), n, 1)``. Each thread keeps
    its last ones, up to a number and to so many bytes, and the last two, which one copy may be between, whatever their
    size."""

    COUNT_MIN, COUNT_MAX, BYTES_MAX = 2, 256, 64 << 20

    def __init__(self) -> None:
        self._thread = threading.local()

    def keep(self, owner: Any, size: int) -> None:
        kept = getattr(self._thread, "kept", None)
        if kept is None:
            kept, self._thread.bytes = deque(), 0
            self._thread.kept = kept
        kept.append((owner, size))
        self._thread.bytes += size
        while len(kept) > self.COUNT_MIN and (len(kept) > self.COUNT_MAX or self._thread.bytes > self.BYTES_MAX):
            self._thread.bytes -= kept.popleft()[1]


_lately = _Lately()


def bytes_to_ptr(data: bytes) -> int:
    """Address of the bytes, which live as long as they are used or some hundred further calls of this thread."""
    if not isinstance(data, bytes):
        raise TypeError(f"bytes_to_ptr takes bytes, not {type(data).__name__}")
    _lately.keep(data, len(data))
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


def ptr_to_bytes(pointer: int, size: int) -> bytes:
    """A copy of ordinary memory."""
    return ctypes.string_at(pointer, size)


def numpy_to_ptr(array: Any) -> int:
    """Address of a numpy array's first element; the array lives as that of :func:`bytes_to_ptr`."""
    _lately.keep(array, int(getattr(array, "nbytes", 0)))
    return int(array.__array_interface__["data"][0])


def ptr_to_numpy(pointer: int, shape: Tuple[int, ...], kind: int) -> Any:
    """A numpy array over ordinary memory."""
    import numpy

    dtype: Any = numpy.dtype(_NUMPY_TYPES[kind])
    size = int(numpy.prod(shape)) * dtype.itemsize
    return numpy.frombuffer((ctypes.c_char * size).from_address(pointer), dtype=dtype).reshape(shape)


def make_module(devices: int) -> ModuleType:
    """A new `acl` with `rt` and `util`. Raises ValueError for a number of devices that is not from 1 to 64."""
    if not 1 <= devices <= 64:
        raise ValueError(f"{devices} devices: there can be 1 to 64")
    acl, runtime, util = ModuleType("acl", __doc__), ModuleType("acl.rt"), ModuleType("acl.util")
    state = _Runtime(devices)
    for name in dir(state):
        if not name.startswith("_") and callable(getattr(state, name)):
            setattr(runtime, name, getattr(state, name))
    for function in (bytes_to_ptr, ptr_to_bytes, numpy_to_ptr, ptr_to_numpy):
        setattr(util, function.__name__, function)

    def init(config_path: Optional[str] = None) -> int:
        return OK

    def finalize() -> int:
        return OK

    def get_soc_name() -> str:
        return "hbmesh simulated device"

    def get_recent_err_msg() -> str:
        return ""

    for each in (init, finalize, get_soc_name, get_recent_err_msg):
        setattr(acl, each.__name__, each)
    acl.rt, acl.util = runtime, util  # type: ignore[attr-defined]
    acl.__hbmesh_simulated__ = True  # type: ignore[attr-defined]
    return acl
