"""SetParam, and KVClient for values in ordinary memory."""

from __future__ import annotations

import warnings
from enum import Enum
from typing import Any, Dict, List, Optional, Union

from hbmesh import Client, generate_key
from hbmesh.config import from_environment
from hbmesh.errors import StatusCode
from hbmesh.host import HostObjects

from .object_client import CacheType, WriteMode
from .util import Status, check_keys, check_timeout, check_type, failed_or_raise, invalid, raise_first, translated

__all__ = ["ExistenceOpt", "KVClient", "SetParam"]

_TTL_SECOND_MAX = 2**32 - 1


class ExistenceOpt(Enum):
    """What becomes of a key that is there.

    NONE: HeteroClient leaves it as it is (the first write wins), KVClient replaces it. NX: the set fails with
    KEY_ALREADY_EXISTS (2004).
    """

    NONE = 0
    NX = 1


class SetParam:
    """How to set. Attributes may be assigned.

    Attributes:
        write_mode: see :class:`WriteMode`.
        ttl_second: until the object is removed; 0: never.
        existence: see :class:`ExistenceOpt`.
        cache_type: see :class:`CacheType`.
    """

    def __init__(self) -> None:
        self.write_mode: WriteMode = WriteMode.NONE_L2_CACHE
        self.ttl_second: int = 0
        self.existence: ExistenceOpt = ExistenceOpt.NONE
        self.cache_type: CacheType = CacheType.MEMEORY


_EVICTED_FIRST = (WriteMode.NONE_L2_CACHE_EVICT, WriteMode.WRITE_BACK_L2_CACHE_EVICT)
_SECOND_LEVEL = (WriteMode.WRITE_THROUGH_L2_CACHE, WriteMode.WRITE_BACK_L2_CACHE, WriteMode.WRITE_BACK_L2_CACHE_EVICT)


def options_of(param: SetParam, when_there: str = "skip") -> Dict[str, Any]:
    """A SetParam as the options of :meth:`hbmesh.Client.mset_d2h`. Raises TypeError for an attribute of a wrong
    type."""
    check_type("set_param", param, SetParam)
    check_type("set_param.write_mode", param.write_mode, WriteMode)
    check_type("set_param.existence", param.existence, ExistenceOpt)
    check_type("set_param.ttl_second", param.ttl_second, int)
    check_type("set_param.cache_type", param.cache_type, CacheType)
    if not 0 <= param.ttl_second <= _TTL_SECOND_MAX:
        raise invalid(f"ttl_second is {param.ttl_second}: it must be from 0 to {_TTL_SECOND_MAX}")
    if param.write_mode in _SECOND_LEVEL:
        warnings.warn(
            f"hbmesh has no second-level cache: {param.write_mode.name} keeps the object in memory", stacklevel=3
        )
    return {
        "existence": "fail" if param.existence == ExistenceOpt.NX else when_there,
        "ttl_seconds": min(int(param.ttl_second), 10 * 365 * 86_400),
        "pin": "none" if param.write_mode in _EVICTED_FIRST else "soft",
    }


def check_connection(**arguments: Any) -> None:
    """Types of a client's arguments. Raises TypeError naming the first that is wrong."""
    for name, value in arguments.items():
        if name.startswith("enable_"):
            check_type(name, value, bool)
        elif name.endswith("_ms") or name in ("port", "device_id"):
            check_type(name, value, int)
        else:
            check_type(name, value, str)


def open_client(host: str, port: int, connect_timeout_ms: int, req_timeout_ms: int, token: str) -> Client:
    """A client of that worker; without host and port, of the one that the environment names."""
    if host == "" and port == 0:
        try:
            found = from_environment()
        except ValueError as error:
            raise invalid(str(error)) from error
        host, port = found.host, found.port
    elif host == "" or not 0 < port < 65_536:
        raise invalid(f"host {host!r} and port {port} name no worker: give both, as in '127.0.0.1', 31501")
    if connect_timeout_ms < 0:
        raise invalid(f"connect_timeout_ms is {connect_timeout_ms}: it must not be negative")
    with translated():
        try:
            return Client(
                host,
                port,
                token=token,
                connect_timeout_ms=connect_timeout_ms,
                request_timeout_ms=max(0, int(req_timeout_ms)),
            )
        except ValueError as error:
            raise invalid(str(error)) from error


Value = Union[bytes, bytearray, memoryview, str]


class KVClient:
    """Values of ordinary memory by key. They pass through a staging buffer on device 0; what is in device memory
    already belongs to HeteroClient.

    Args:
        as of :class:`yr.datasystem.hetero_client.HeteroClient`; without host and port, the worker that DS_WORKER_ADDR
        or YR_CONFIG_PATH names.
    """

    def __init__(
        self,
        host: str = "",
        port: int = 0,
        connect_timeout_ms: int = 9000,
        token: str = "",
        client_public_key: str = "",
        client_private_key: str = "",
        server_public_key: str = "",
        access_key: str = "",
        secret_key: str = "",
        tenant_id: str = "",
        enable_cross_node_connection: bool = False,
        req_timeout_ms: int = 0,
        enable_exclusive_connection: bool = False,
    ) -> None:
        arguments = dict(locals())
        del arguments["self"]
        check_connection(**arguments)
        self._client = open_client(host, port, connect_timeout_ms, req_timeout_ms, token)
        self._objects = HostObjects(self._client)

    def init(self) -> None:
        """Connects. Raises RuntimeError."""
        with translated():
            self._client.connect()

    def close(self) -> None:
        self._client.close()

    def set(self, key: str, val: Value, write_mode: WriteMode = WriteMode.NONE_L2_CACHE, ttl_second: int = 0) -> None:
        """Sets a value, in place of what is there.

        Raises:
            TypeError: wrong type.
            RuntimeError: it could not be set; also for an empty value.
        """
        check_type("key", key, str)
        raise_first(self._put([key], [val], write_mode, ttl_second, ExistenceOpt.NONE))

    def set_value(self, val: Value, write_mode: WriteMode = WriteMode.NONE_L2_CACHE, ttl_second: int = 0) -> str:
        """Sets a value under a new key, which is returned."""
        key = generate_key()
        self.set(key, val, write_mode, ttl_second)
        return key

    def mset(
        self,
        keys: List[str],
        vals: List[Value],
        write_mode: WriteMode = WriteMode.NONE_L2_CACHE,
        ttl_second: int = 0,
        existence_opt: ExistenceOpt = ExistenceOpt.NONE,
    ) -> List[str]:
        """Sets several; returns the keys that failed, and raises RuntimeError when all did."""
        check_keys(keys)
        check_type("vals", vals, list)
        if len(keys) != len(vals):
            raise ValueError(f"{len(keys)} keys, but {len(vals)} values")
        return failed_or_raise(self._put(keys, vals, write_mode, ttl_second, existence_opt))

    def get(
        self, keys: List[str], convert_to_str: bool = False, sub_timeout_ms: int = 0
    ) -> List[Optional[Union[bytes, str]]]:
        """Values by key, None for one that is not there.

        Raises:
            RuntimeError: none of them could be got.
        """
        check_keys(keys)
        check_timeout("sub_timeout_ms", sub_timeout_ms)
        with translated():
            result, values = self._objects.get(keys, timeout_ms=sub_timeout_ms)
        failed_or_raise(result)
        joined = [None if pieces is None else b"".join(pieces) for pieces in values]
        if not convert_to_str:
            return list(joined)
        return [None if value is None else value.decode() for value in joined]

    def delete(self, keys: List[str]) -> List[str]:
        """Removes; returns the keys that failed."""
        check_keys(keys)
        with translated():
            return failed_or_raise(self._client.delete(keys))

    def exist(self, keys: List[str]) -> List[bool]:
        """Is it there, by key. Raises RuntimeError when that can't be told: a fault is never a no."""
        check_keys(keys)
        return exist_of(self._client, keys)

    def generate_key(self, prefix: str = "") -> str:
        """A key that nobody else has; it begins with the prefix."""
        check_type("prefix", prefix, str)
        with translated():
            return generate_key(prefix)

    def health_check(self) -> Status:
        """How the worker is."""
        with translated():
            health = self._client.health_check()
        return Status() if health.ready else Status(StatusCode.NOT_READY, health.reason)

    def _put(
        self, keys: List[str], vals: List[Value], write_mode: WriteMode, ttl_second: int, existence: ExistenceOpt
    ) -> Any:
        param = SetParam()
        param.write_mode, param.ttl_second, param.existence = write_mode, ttl_second, existence
        options = options_of(param, when_there="replace")
        values = []
        for key, val in zip(keys, vals):
            check_type("val", val, memoryview, bytes, bytearray, str)
            piece = val.encode() if isinstance(val, str) else val
            if memoryview(piece).nbytes == 0:
                raise invalid(f"the value of key {key!r} is empty: an object has at least one byte")
            values.append([piece])
        with translated():
            return self._objects.put(keys, values, **options)


def exist_of(client: Client, keys: List[str]) -> List[bool]:
    """Presence by key; raises the first UNKNOWN."""
    with translated():
        result = client.exist(keys)
        unknown = result.unknown()
        if unknown is not None:
            raise unknown
    return [code == StatusCode.OK for code in result.codes]
