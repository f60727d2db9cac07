"""hbmesh: objects in accelerator memory (HBM), host memory and on other nodes, by key.

    from hbmesh import Client, DeviceBlobList, SimDevice

    with Client("127.0.0.1", 31501) as client:
        tensor = SimDevice(0).buffer(4096)
        client.mset_d2h(["key"], [DeviceBlobList.of(0, tensor)]).raise_for_failures()

docs/PYTHON.md has every call with an example. :class:`Client` blocks, :class:`AsyncClient` is for asyncio;
``yr.datasystem`` is the interface that existing code imports.
"""

from __future__ import annotations

from .aio import AsyncClient, AsyncFuture, AsyncLayerTicket
from .blobs import Blob, DeviceBlobList
from .client import Client, generate_key
from .devices import SimBuffer, SimDevice, current_device, set_device
from .errors import (
    CancelledError,
    DeadlineExceededError,
    DisconnectedError,
    FutureTimeoutError,
    HbmeshError,
    InvalidError,
    KeyExistsError,
    NotAuthorizedError,
    NotFoundError,
    NotReadyError,
    NotSupportedError,
    NoWorkerError,
    OutOfMemoryError,
    PeerDeadError,
    ShuttingDownError,
    StatusCode,
    TryAgainError,
    UnavailableError,
)
from .futures import TransferFuture
from .layers import LayerTicket
from .results import BatchResult, ExistResult, Health, KeyStatus, Meta, MetaResult, PathRecord, WriteResult

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncFuture",
    "AsyncLayerTicket",
    "BatchResult",
    "Blob",
    "CancelledError",
    "Client",
    "DeadlineExceededError",
    "DeviceBlobList",
    "DisconnectedError",
    "ExistResult",
    "FutureTimeoutError",
    "HbmeshError",
    "Health",
    "InvalidError",
    "KeyExistsError",
    "KeyStatus",
    "LayerTicket",
    "Meta",
    "MetaResult",
    "NoWorkerError",
    "NotAuthorizedError",
    "NotFoundError",
    "NotReadyError",
    "NotSupportedError",
    "OutOfMemoryError",
    "PathRecord",
    "PeerDeadError",
    "ShuttingDownError",
    "SimBuffer",
    "SimDevice",
    "StatusCode",
    "TransferFuture",
    "TryAgainError",
    "UnavailableError",
    "WriteResult",
    "current_device",
    "generate_key",
    "set_device",
]
