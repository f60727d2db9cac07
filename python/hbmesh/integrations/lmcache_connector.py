"""The connector behind :mod:`hbmesh.integrations.lmcache`; imports LMCache.

A chunk is an object of two blobs: a description (shapes, data types, format, as JSON) and the bytes. LMCache keeps
chunks in ordinary memory, so they pass through a staging buffer on a device (:mod:`hbmesh.host`).
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from typing import Any, Callable, Dict, List, Optional, Sequence
from urllib.parse import urlparse

import torch
from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.storage_backend.connector import ConnectorAdapter, ConnectorContext
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector

from hbmesh import Client, HbmeshError, StatusCode, config
from hbmesh._stop import Stop
from hbmesh.aio import in_thread
from hbmesh.host import HostObjects
from hbmesh.integrations.kv_blocks import digest

logger = logging.getLogger(__name__)

PLUGIN_TYPE = "hbmesh"
SCHEME = "hbmesh://"


class HbmeshConnectorAdapter(ConnectorAdapter):  # type: ignore[misc]
    """Makes connectors for ``hbmesh://HOST:PORT`` and for plugins of type ``hbmesh``."""

    def __init__(self) -> None:
        super().__init__(SCHEME)

    def can_parse(self, url: str) -> bool:
        if url.startswith("plugin://"):
            return url[len("plugin://") :].split(".", 1)[0] == PLUGIN_TYPE
        return url.startswith(SCHEME)

    def create_connector(self, context: ConnectorContext) -> "HbmeshRemoteConnector":
        """Options, in the URL's query or as ``remote_storage_plugin.<name>.<option>``: `address` (HOST:PORT), `token`,
        `device` (of the staging buffers, default 0), `ttl_seconds`."""
        options = self._options(context)
        address = str(options.get("address", ""))
        if address:
            host, port = config.split_address(address)
            client = Client(host, port, token=str(options.get("token", "")))
        else:
            client = Client.from_environment(token=str(options.get("token", "")))
        device, ttl = int(options.get("device", 0)), float(options.get("ttl_seconds", 0))
        client.connect()
        return HbmeshRemoteConnector(
            client, context.local_cpu_backend, device, ttl, config=context.config, metadata=context.metadata
        )

    def _options(self, context: ConnectorContext) -> Dict[str, Any]:
        options: Dict[str, Any] = {}
        extra = getattr(context.config, "extra_config", None) or {}
        prefix = f"remote_storage_plugin.{getattr(context, 'plugin_name', None) or PLUGIN_TYPE}."
        for name, value in extra.items():
            if name.startswith(prefix):
                options[name[len(prefix) :]] = value
        if context.url.startswith(SCHEME):
            parsed = urlparse(context.url)
            options["address"] = parsed.netloc
            options.update(pair.split("=", 1) for pair in parsed.query.split("&") if "=" in pair)
        return options


class HbmeshRemoteConnector(RemoteConnector):  # type: ignore[misc]
    """Chunks in hbmesh. Faults of the store are logged and answered as misses, as LMCache expects of a remote store;
    puts raise them.

    Args:
        client: connected; closed with the connector.
        local_cpu_backend: where memory for chunks comes from.
        device_index: where the staging buffers are.
        ttl_seconds: until chunks are removed; 0: never.
        config, metadata: LMCache's, for what the base class keeps of them.
    """

    def __init__(
        self,
        client: Client,
        local_cpu_backend: Any,
        device_index: int = 0,
        ttl_seconds: float = 0,
        *,
        config: Any = None,
        metadata: Any = None,
    ) -> None:
        # Releases before 0.3.10 have no constructor there; a scheduler may have no metadata.
        if RemoteConnector.__init__ is not object.__init__ and metadata is not None:
            super().__init__(config, metadata)
        self.client = client
        self.local_cpu_backend = local_cpu_backend
        self._objects = HostObjects(client, device_index)
        self._ttl_seconds = ttl_seconds

    # ---- Questions ---------------------------------------------------------------------------------------------------

    async def exists(self, key: Any) -> bool:
        return await asyncio.to_thread(self.exists_sync, key)

    def exists_sync(self, key: Any) -> bool:
        return self._count_hits([key]) == 1

    def support_batched_contains(self) -> bool:
        return True

    def batched_contains(self, keys: List[Any]) -> int:
        """How many keys from the start are there."""
        return self._count_hits(keys)

    def support_batched_async_contains(self) -> bool:
        return True

    async def batched_async_contains(self, lookup_id: str, keys: List[Any], pin: bool = False) -> int:
        """How many keys from the start are there."""
        return await asyncio.to_thread(self._count_hits, keys)

    def _count_hits(self, keys: Sequence[Any]) -> int:
        hits = self._presences(keys)
        return hits.index(False) if False in hits else len(hits)

    def _presences(self, keys: Sequence[Any]) -> List[bool]:
        if not keys:
            return []
        try:
            result = self.client.exist([_name(key) for key in keys])
        except HbmeshError as error:
            logger.warning("hbmesh: lookup of %d chunks failed: %s", len(keys), error)
            return [False] * len(keys)
        unknown = result.unknown()
        if unknown is not None:
            logger.warning("hbmesh: lookup could not tell of every chunk: %s", unknown)
        return [code == StatusCode.OK for code in result.codes]

    # ---- Bytes -------------------------------------------------------------------------------------------------------

    async def get(self, key: Any) -> Optional[Any]:
        return (await self.batched_get([key]))[0]

    def support_batched_get(self) -> bool:
        return True

    async def batched_get(self, keys: List[Any]) -> List[Optional[Any]]:
        """Memory objects by key, None for what is not there. LMCache cancels what takes too long: what was got by then
        is released."""

        async def undo(found: List[Optional[Any]]) -> None:
            _release(found)

        return await in_thread(lambda stop: self._get(keys, stop), undo)

    def support_batched_get_non_blocking(self) -> bool:
        return True

    async def batched_get_non_blocking(self, lookup_id: str, keys: List[Any]) -> List[Any]:
        """Memory objects from the start, up to the first that is not there: prefetch of a prefix."""
        found = await self.batched_get(keys)
        count = found.index(None) if None in found else len(found)
        _release(found[count:])
        return found[:count]

    def _get(self, keys: Sequence[Any], stop: Stop) -> List[Optional[Any]]:
        if not keys:
            return []
        found: List[Optional[Any]] = [None] * len(keys)

        def take(index: int, sizes: List[int], read: Callable[[int, Any], None]) -> None:
            if len(sizes) == 2:  # else it was not set by this connector
                header = bytearray(sizes[0])
                read(0, header)
                found[index] = self._filled(header, sizes[1], read)

        try:
            result = self._objects.get_each([_name(key) for key in keys], take, stop=stop)
        except HbmeshError as error:
            _release(found)
            logger.warning("hbmesh: getting %d chunks failed: %s", len(keys), error)
            return [None] * len(keys)
        for status in result:
            if not status.ok and status.code != StatusCode.NOT_FOUND:
                logger.warning("hbmesh: chunk %s: %s", status.key, status.message)
        return found

    def _filled(self, header: bytearray, size: int, read: Callable[[int, Any], None]) -> Optional[Any]:
        """A memory object of the header's kind with the chunk's bytes, or None where there is no memory for it."""
        described = json.loads(header.decode())
        shapes = [torch.Size(each) for each in described["shapes"]]
        dtypes = [None if each is None else getattr(torch, each) for each in described["dtypes"]]
        one = len(shapes) == 1
        made = self.local_cpu_backend.allocate(
            shapes[0] if one else shapes, dtypes[0] if one else dtypes, MemoryFormat[described["format"]]
        )
        if made is None:
            logger.warning("hbmesh: no memory for a chunk of %d bytes", size)
            return None
        target = memoryview(made.byte_array)
        if target.nbytes != size:
            logger.warning("hbmesh: a chunk of %d bytes does not fit into %d", size, target.nbytes)
            made.ref_count_down()
            return None
        read(1, target)
        return made

    async def put(self, key: Any, memory_obj: Any) -> None:
        await self.batched_put([key], [memory_obj])

    def support_batched_put(self) -> bool:
        return True

    async def batched_put(self, keys: List[Any], memory_objs: List[Any]) -> None:
        """Sets chunks; raises when one could not be set. The caller keeps its references. Cancelled, it ends when the
        chunks' memory is not read any more: each chunk then has the bytes that it had, or is not set."""
        if keys:
            await in_thread(lambda stop: self._put(keys, memory_objs, stop))

    def _put(self, keys: Sequence[Any], memory_objs: Sequence[Any], stop: Stop) -> None:
        values = []
        for each in memory_objs:
            described = {
                "shapes": [list(shape) for shape in _each(each, "get_shapes", "get_shape")],
                "dtypes": [_name_of(dtype) for dtype in _each(each, "get_dtypes", "get_dtype")],
                "format": each.get_memory_format().name,
            }
            values.append([json.dumps(described).encode(), each.byte_array])
        names = [_name(key) for key in keys]
        self._objects.put(names, values, ttl_seconds=self._ttl_seconds, stop=stop).raise_for_failures()

    def remove_sync(self, key: Any) -> bool:
        """Removes a chunk; was it there?"""
        try:
            result = self.client.delete([_name(key)])
        except HbmeshError as error:
            logger.warning("hbmesh: removing a chunk failed: %s", error)
            return False
        return bool(result) and result.existed[0]

    # ---- The rest ----------------------------------------------------------------------------------------------------

    async def list(self) -> List[str]:
        """hbmesh does not list keys: its directory is spread over owners that answer for keys they are asked for."""
        raise NotImplementedError("hbmesh does not list keys")

    def support_ping(self) -> bool:
        return True

    async def ping(self) -> int:
        """0, or the code of what is wrong."""
        try:
            health = await asyncio.to_thread(self.client.health_check)
        except HbmeshError as error:
            return int(error.code)
        return 0 if health.ready else int(StatusCode.NOT_READY)

    async def close(self) -> None:
        await asyncio.to_thread(self.client.close)


def _release(memory_objs: Sequence[Optional[Any]]) -> None:
    for each in memory_objs:
        if each is not None:
            each.ref_count_down()


def _each(memory_obj: Any, several: str, single: str) -> List[Any]:
    """What a memory object says of its groups of layers; older ones have one group, and say it in another way."""
    return list(getattr(memory_obj, several)()) if hasattr(memory_obj, several) else [getattr(memory_obj, single)()]


def _name_of(dtype: Any) -> Optional[str]:
    """ "bfloat16" of torch.bfloat16; None of bytes that are no tensor."""
    return None if dtype is None else str(dtype).rsplit(".", 1)[-1]


def _name(key: Any) -> str:
    """The key of a chunk: LMCache's own text may have characters that are not allowed, and be long."""
    return f"lmcache:{digest(key.to_string())}{digest('again', key.to_string())}"


def _batched_contains_as_list(
    self: HbmeshRemoteConnector, keys: List[Any], stop_after_first_not_exits: bool = True
) -> List[bool]:
    """batched_contains of releases that want it by key. With the flag, all after the first that isn't are False."""
    hits = self._presences(keys)
    if stop_after_first_not_exits and False in hits:
        first = hits.index(False)
        return hits[:first] + [False] * (len(hits) - first)
    return hits


if "stop_after_first_not_exits" in inspect.signature(RemoteConnector.batched_contains).parameters:
    HbmeshRemoteConnector.batched_contains = _batched_contains_as_list  # type: ignore[method-assign,assignment]
