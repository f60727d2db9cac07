"""Values that callers give: whole numbers, and bytes in ordinary memory. Internal.

Numbers may be numpy's. Bytes may be anything that has them in one piece in ordinary memory: what has a buffer, numpy
arrays of any data type (also those of ml_dtypes, such as bfloat16 and float8), tensors on the CPU.
"""

from __future__ import annotations

import ctypes
import operator
import re
from typing import Any, List, Optional, Sequence

# As in <f4, |V6, <U5, <M8[ns].
_TYPESTR = re.compile(r"[<>|=]?([a-zA-Z])(\d+)")


def whole(value: Any) -> Optional[int]:
    """A whole number as int, or None: a bool, a float, text. numpy's numbers are whole numbers, its bools are not."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    # Has __index__, as arrays and tensors of one element do: of these, only what says that it is a scalar counts.
    if not hasattr(value, "__index__") or getattr(value, "shape", ()) != () or "bool" in type(value).__name__:
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def is_contiguous(shape: Sequence[int], strides: Optional[Sequence[int]], item_bytes: int) -> bool:
    """Do elements follow each other, the last dimension's first? As ``__array_interface__`` has it: strides in bytes,
    None where they do."""
    if strides is None or 0 in shape:
        return True
    expected = item_bytes
    for length, stride in zip(reversed(shape), reversed(strides)):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def item_bytes_of(interface: Any) -> int:
    """Bytes of one element of an ``__array_interface__``. Raises TypeError for a type that it does not say so of."""
    found = _TYPESTR.match(interface["typestr"])
    if found is None:
        raise TypeError(f"elements of type {interface['typestr']!r} have no number of bytes")
    kind, number = found.groups()
    return int(number) * (4 if kind == "U" else 1)  # text: a number of characters


def interface_bytes(interface: Any) -> int:
    """Bytes of the elements of an ``__array_interface__``."""
    total = item_bytes_of(interface)
    for length in interface["shape"]:
        total *= int(length)
    return total


def refuse_lazy(tensor: Any, what: str) -> None:
    """Raises TypeError for a view that is computed when it is looked at: its memory has other values."""
    for lazy, resolve in (("is_conj", "resolve_conj"), ("is_neg", "resolve_neg")):
        if hasattr(tensor, lazy) and getattr(tensor, lazy)():
            raise TypeError(
                f"{what} is a lazy view ({lazy}()), whose memory has other values than it shows: give "
                f"tensor.{resolve}()"
            )


def host_view(value: Any, what: str, least: int = 1) -> memoryview:
    """The bytes of a value in ordinary memory, as a view of bytes that borrows from it and keeps it.

    Args:
        value: see above.
        what: names it in errors.
        least: bytes that it must have.

    Raises:
        TypeError: it has no bytes in one piece in ordinary memory.
        ValueError: it has too few.
    """
    if hasattr(value, "data_ptr"):
        view = _tensor_view(value, what)
    elif hasattr(value, "__array_interface__"):
        # A scalar of numpy makes its memory anew each time that it is asked for it.
        is_scalar = not hasattr(value, "__setitem__") and hasattr(value, "tobytes")
        view = memoryview(value.tobytes()) if is_scalar else _array_view(value, what)
    else:
        view = _buffer_view(value, what)
    if view.nbytes < least:
        raise ValueError(f"{what} has no bytes: leave it out, or give at least one")
    return view


def host_views(key: str, pieces: Any) -> List[memoryview]:
    """The pieces of one key's value. Raises as :func:`host_view`, naming the key."""
    if isinstance(pieces, (bytes, bytearray, memoryview, str)) or hasattr(pieces, "data_ptr"):
        raise TypeError(
            f"the value of key {key!r} is one {type(pieces).__name__}: give a list of its pieces, as in [value]"
        )
    listed = list(pieces)
    if not listed:
        raise ValueError(f"the value of key {key!r} has no pieces: an object has at least one byte")
    return [host_view(piece, f"piece {number} of key {key!r}") for number, piece in enumerate(listed, 1)]


def _memory(owner: Any, address: int, size: int) -> memoryview:
    """A view of an owner's memory, which lives as long as the view."""
    if size == 0:
        return memoryview(b"")
    held = (ctypes.c_ubyte * size).from_address(address)
    held.owner = owner  # type: ignore[attr-defined]
    return memoryview(held).cast("B")


def _tensor_view(tensor: Any, what: str) -> memoryview:
    kind = str(getattr(getattr(tensor, "device", None), "type", "cpu"))
    if kind != "cpu":
        raise TypeError(
            f"{what} is on {kind}, not in ordinary memory: give tensor.cpu(), or set it from there with mset_d2h"
        )
    refuse_lazy(tensor, what)
    if not tensor.is_contiguous():
        raise TypeError(f"{what} is not contiguous: its bytes are not in one piece; give tensor.contiguous()")
    size = int(tensor.numel()) * int(tensor.element_size())
    if size and not tensor.data_ptr():
        raise ValueError(f"{what} has no storage: is it on the meta device?")
    return _memory(tensor, int(tensor.data_ptr()), size)


def _array_view(array: Any, what: str) -> memoryview:
    interface = array.__array_interface__
    if "O" in interface["typestr"] or getattr(getattr(array, "dtype", None), "hasobject", False):
        raise TypeError(f"{what} is an array of Python objects, whose memory has addresses: give its values as bytes")
    if not is_contiguous(interface["shape"], interface.get("strides"), item_bytes_of(interface)):
        raise TypeError(f"{what} is not contiguous: its bytes are not in one piece; give numpy.ascontiguousarray(it)")
    address, readonly = interface["data"]
    view = _memory((array, interface), int(address), interface_bytes(interface))
    return view.toreadonly() if readonly else view


def _buffer_view(value: Any, what: str) -> memoryview:
    try:
        view = memoryview(value)
    except TypeError as error:
        remedy = "encode it" if isinstance(value, str) else "give bytes, or what has a buffer"
        raise TypeError(f"{what} is a {type(value).__name__}, which has no bytes: {remedy}") from error
    if "O" in re.sub(":[^:]*:", "", view.format):  # names of fields may have one
        raise TypeError(f"{what} has Python objects, whose memory has addresses: give its values as bytes")
    if not view.c_contiguous:
        raise TypeError(f"{what} is not contiguous: its bytes are not in one piece; give a copy, as bytes(it)")
    # A view of no bytes can't be cast; one of another format than bytes can't be sliced by them.
    return view.cast("B") if view.nbytes and view.format in _CASTABLE else view


_CASTABLE = frozenset("bBcHhIiLlQqnNfd?P")
