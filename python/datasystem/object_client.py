"""The older name of :mod:`yr.datasystem.object_client`."""

from yr.datasystem.object_client import (
    CacheType as CacheType,
    ConsistencyType as ConsistencyType,
    WriteMode as WriteMode,
)
