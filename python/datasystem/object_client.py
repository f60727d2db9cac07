"""The older name of :mod:`yr.datasystem.object_client`."""

from yr.datasystem.object_client import (
    CacheType as CacheType,
)
from yr.datasystem.object_client import (
    ConsistencyType as ConsistencyType,
)
from yr.datasystem.object_client import (
    WriteMode as WriteMode,
)
