"""yr.datasystem: the interface that existing scripts and vllm-ascend's store import, over hbmesh.

docs/PYTHON.md lists its calls and what is different on purpose.
"""

from __future__ import annotations

from .ds_client import DsClient
from .ds_tensor_client import CopyRange, DsTensorClient
from .hetero_client import Blob, DeviceBlobList, Future, HeteroClient, MetaInfo
from .kv_client import ExistenceOpt, KVClient, SetParam
from .object_client import CacheType, ConsistencyType, WriteMode
from .util import DsError, FutureTimeoutException, Status

__all__ = [
    "Blob",
    "CacheType",
    "ConsistencyType",
    "CopyRange",
    "DeviceBlobList",
    "DsClient",
    "DsError",
    "DsTensorClient",
    "ExistenceOpt",
    "Future",
    "FutureTimeoutException",
    "HeteroClient",
    "KVClient",
    "MetaInfo",
    "SetParam",
    "Status",
    "WriteMode",
]
