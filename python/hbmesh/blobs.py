"""Blob and DeviceBlobList: where an object's bytes are in device memory; and how tensors become them."""

from __future__ import annotations

from typing import Any, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ._values import interface_bytes, is_contiguous, item_bytes_of, refuse_lazy, whole


class Blob(NamedTuple):
    """One piece of an object in device memory.

    Attributes:
        pointer: device address.
        size: bytes, above 0.
    """

    pointer: int
    size: int


class _BlobsOf(List[Blob]):
    """Blobs that keep what they are of: memory lives as long as its last owner."""

    owners: Tuple[Any, ...] = ()


class DeviceBlobList(NamedTuple):
    """The blobs of one object, all on one device, in the order in which they are gathered and scattered.

    Attributes:
        device_index: device of the node.
        blobs: at least one.
    """

    device_index: int
    blobs: Sequence[Blob]

    @classmethod
    def of(cls, device_index: int, *pieces: Any) -> "DeviceBlobList":
        """From :class:`Blob`, ``(pointer, size)`` or tensors (see :func:`blob_of`). Keeps the tensors, so that one made
        just for this call lives long enough."""
        blobs = _BlobsOf(blob_of(piece) for piece in pieces)
        blobs.owners = pieces
        return cls(device_index, blobs)


def pointer_of(tensor: Any) -> int:
    """Address of a tensor's first element.

    Raises:
        TypeError: it has neither ``data_ptr()`` nor ``__array_interface__``, is not contiguous, or is a lazy view.
        ValueError: it has no elements, or no storage.
    """
    if hasattr(tensor, "data_ptr"):
        refuse_lazy(tensor, "the tensor")
        contiguous, pointer = bool(tensor.is_contiguous()), int(tensor.data_ptr())
    elif hasattr(tensor, "__array_interface__"):
        interface = tensor.__array_interface__
        contiguous = is_contiguous(interface["shape"], interface.get("strides"), item_bytes_of(interface))
        pointer = int(interface["data"][0])
    else:
        raise TypeError(
            f"{type(tensor).__name__} is no tensor: give something with data_ptr(), element_size() and "
            "is_contiguous(), or a numpy array over device memory"
        )
    if bytes_of(tensor) == 0:
        shape = tuple(getattr(tensor, "shape", (0,)))
        raise ValueError(f"the tensor of shape {shape} has no bytes: leave it out, an object has at least one byte")
    if not contiguous:
        raise TypeError(
            "the tensor is not contiguous (a transpose, a slice, an expand?): its bytes are not in one piece; use "
            "tensor.contiguous()"
        )
    if pointer == 0:
        raise ValueError("the tensor has no storage: is it on the meta device?")
    return pointer


def bytes_of(tensor: Any) -> int:
    """Bytes of a tensor's elements."""
    if hasattr(tensor, "element_size"):
        count = 1
        if hasattr(tensor, "numel"):
            return int(tensor.numel()) * int(tensor.element_size())
        for length in tensor.shape:
            count *= int(length)
        return count * int(tensor.element_size())
    return int(tensor.nbytes) if hasattr(tensor, "nbytes") else interface_bytes(tensor.__array_interface__)


def blob_of(piece: Any) -> Blob:
    """A Blob from a Blob, a ``(pointer, size)`` pair or a contiguous tensor in device memory."""
    if isinstance(piece, Blob):
        return piece
    if isinstance(piece, tuple) and len(piece) == 2:
        return Blob(*piece)
    return Blob(pointer_of(piece), bytes_of(piece))


def device_of(tensor: Any, default: Optional[int] = None) -> int:
    """Device index of a tensor: its ``device.index``, or else ``default``.

    Raises:
        ValueError: the tensor doesn't say and there is no default.
    """
    index = whole(getattr(getattr(tensor, "device", None), "index", None))
    if index is None:  # numpy says "cpu", a string, which has an index of another kind
        index = default
    if index is None:
        raise ValueError("the tensor does not tell its device: name the device index")
    return int(index)


def flatten(blob_lists: Iterable[DeviceBlobList]) -> Tuple[int, List[List[int]], List[List[int]]]:
    """Device index, and pointers and sizes by key, of blob lists that share a device.

    Raises:
        ValueError: several devices in one call.
    """
    device: Optional[int] = None
    pointers: List[List[int]] = []
    sizes: List[List[int]] = []
    for number, item in enumerate(blob_lists, 1):
        if device is None:
            device = item.device_index
        elif item.device_index != device:
            raise ValueError(
                f"blob list {number} is on device {item.device_index}, those before on device {device}: one call is "
                "about one device"
            )
        pointers.append([blob[0] for blob in item.blobs])
        sizes.append([blob[1] for blob in item.blobs])
    return (0 if device is None else device), pointers, sizes
