"""The older name of :mod:`yr.datasystem.kv_client`."""

from yr.datasystem.kv_client import (
    ExistenceOpt as ExistenceOpt,
    KVClient as KVClient,
    SetParam as SetParam,
)
