"""The older name of :mod:`yr.datasystem.kv_client`."""

from yr.datasystem.kv_client import (
    ExistenceOpt as ExistenceOpt,
)
from yr.datasystem.kv_client import (
    KVClient as KVClient,
)
from yr.datasystem.kv_client import (
    SetParam as SetParam,
)
