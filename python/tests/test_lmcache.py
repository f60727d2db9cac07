"""Goal: LMCache keeps chunks in hbmesh and gets them back on another host; a fault is a miss there, never an exception.
Method: the plugin on stand-ins for LMCache's classes, two workers; memory objects are ctypes memory, as LMCache's
pinned memory is.
"""

import asyncio
import contextlib
import ctypes
import threading
from types import SimpleNamespace

import pytest
from conftest import LONG
from engines import (
    ConnectorContext,
    MemoryFormat,
    OlderRemoteConnector,
    RemoteConnector,
    installed,
    lmcache_modules,
    same_arguments,
)


class MemoryObject:
    def __init__(self, shape, dtype, fmt):
        self.shape, self.dtype, self.format, self.references = shape, dtype, fmt, 1
        size = 2 if "16" in str(dtype) else 1
        for length in shape:
            size *= length
        self.memory = (ctypes.c_ubyte * size)()

    @property
    def byte_array(self):
        return memoryview(self.memory)  # its format is "<B": no cast of it is possible

    def get_shapes(self):
        return [self.shape]

    def get_dtypes(self):
        return [self.dtype]

    def get_memory_format(self):
        return self.format

    def ref_count_down(self):
        self.references -= 1


class OlderMemoryObject(MemoryObject):
    def __getattribute__(self, name):
        if name in ("get_shapes", "get_dtypes"):
            raise AttributeError(name)
        return super().__getattribute__(name)

    def get_shape(self):
        return self.shape

    def get_dtype(self):
        return self.dtype


class Backend:
    def __init__(self):
        self.full = False

    def allocate(self, shape, dtype, fmt):
        return None if self.full else MemoryObject(shape, dtype, fmt)


class Key:
    def __init__(self, number, prefix):
        self.number, self.prefix = number, prefix

    def to_string(self):
        return f"vllm@org/model.v1@2@0@{self.prefix}-{self.number:x}@bfloat16"


def chunk(seed, shape=(2, 3, 5, 7)):
    made = MemoryObject(shape, "torch.bfloat16", MemoryFormat.KV_2LTD)
    size = len(made.memory)
    pattern = bytes((seed * 7 + index) % 251 for index in range(251))
    ctypes.memmove(made.memory, (pattern * (size // 251 + 1))[:size], size)
    return made


@pytest.fixture
def pair(workers):
    with connectors(workers, RemoteConnector) as both:
        yield both


@contextlib.contextmanager
def connectors(workers, base_class):
    """Connectors of two hosts: one by URL, one as a plugin."""
    with installed(lmcache_modules(base_class)):
        from hbmesh.integrations.lmcache import HbmeshConnectorAdapter

        adapter = HbmeshConnectorAdapter()
        by_url = ConnectorContext(
            f"hbmesh://{workers.addresses[0]}?device=1&ttl_seconds=600", None, Backend(), None, object()
        )
        extra = {"remote_storage_plugin.hbmesh.far.address": workers.addresses[1], "other": 1}
        config = SimpleNamespace(extra_config=extra)
        plugin = ConnectorContext("plugin://hbmesh.far", None, Backend(), config, object(), "hbmesh.far")
        assert adapter.can_parse(by_url.url) and adapter.can_parse(plugin.url) and adapter.can_parse("plugin://hbmesh")
        assert not adapter.can_parse("redis://x:1") and not adapter.can_parse("plugin://fs")
        near, far = adapter.create_connector(by_url), adapter.create_connector(plugin)
        yield near, far
        asyncio.run(near.close())
        asyncio.run(far.close())


def test_chunks_go_from_host_to_host(pair, first):
    near, far = pair
    keys = [Key(number, first.generate_key()) for number in range(3)]
    chunks = [chunk(number) for number in range(3)]

    async def body():
        await near.put(keys[0], chunks[0])
        await near.batched_put(keys[1:], chunks[1:])
        assert await far.exists(keys[0]) and far.exists_sync(keys[2])
        one = await far.get(keys[1])
        assert bytes(one.memory) == bytes(chunks[1].memory)
        assert (one.shape, one.dtype, one.format) == ((2, 3, 5, 7), "torch.bfloat16", MemoryFormat.KV_2LTD)
        found = await far.batched_get([keys[2], Key(9, "no"), keys[0]])
        assert found[1] is None and bytes(found[0].memory) == bytes(chunks[2].memory)
        assert await far.batched_get([]) == [] and chunks[0].references == 1
        assert await near.get(Key(8, "no")) is None

    asyncio.run(body())


def test_lookups_and_prefetch_of_a_prefix(pair, first):
    near, far = pair
    prefix = first.generate_key()
    keys = [Key(number, prefix) for number in range(4)]

    async def body():
        await near.batched_put([keys[0], keys[1], keys[3]], [chunk(n) for n in (0, 1, 3)])
        assert far.batched_contains(keys) == 2 and far.batched_contains(keys[:2]) == 2
        assert await far.batched_async_contains("lookup", keys) == 2
        assert await far.batched_async_contains("lookup", keys[:2]) == 2 and far.batched_contains([]) == 0
        prefetched = await far.batched_get_non_blocking("lookup", keys)
        assert [bytes(each.memory) for each in prefetched] == [bytes(chunk(n).memory) for n in (0, 1)]
        assert far.remove_sync(keys[0]) and not far.remove_sync(keys[0])
        assert await near.batched_async_contains("lookup", keys) == 0
        assert await near.ping() == 0

    asyncio.run(body())
    for name in ("ping", "batched_get", "batched_put", "batched_contains", "batched_async_contains"):
        assert getattr(near, f"support_{name}")()
    assert near.support_batched_get_non_blocking()


def test_what_is_got_after_lmcache_gave_up_is_released(pair, first, monkeypatch):
    """LMCache cancels a get that takes longer than it waits; the memory that it allocated goes back."""
    near, far = pair
    key, made = Key(1, first.generate_key()), []
    started, go_on = threading.Event(), threading.Event()
    allocate = far.local_cpu_backend.allocate

    def slowly(*arguments):
        started.set()
        assert go_on.wait(LONG)
        made.append(allocate(*arguments))
        return made[-1]

    monkeypatch.setattr(far.local_cpu_backend, "allocate", slowly)

    async def body():
        await near.put(key, chunk(1))
        task = asyncio.create_task(far.get(key))
        await cancelled_within(task, started, go_on)

    asyncio.run(asyncio.wait_for(body(), LONG))
    assert [each.references for each in made] == [0]


async def cancelled_within(task, started, go_on):
    """Cancels a task whose thread has begun; it must not end before the thread has let go of the memory."""
    await asyncio.to_thread(started.wait, LONG)
    task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


def overwritten(chunks):
    """As LMCache does with memory that is its own again."""
    for each in chunks:
        ctypes.memset(each.memory, 255, len(each.memory))


def test_a_cancelled_put_has_let_go_of_its_memory(pair, first, monkeypatch):
    near, far = pair
    prefix = first.generate_key()
    keys, chunks = [Key(number, prefix) for number in range(3)], [chunk(number) for number in range(3)]
    started, go_on, copied = threading.Event(), threading.Event(), []
    copy_in = near._objects.memory.copy_in

    def slowly(pointer, data):
        if len(copied) == 3:  # a header and the bytes of the first chunk, and the second one's header
            started.set()
            assert go_on.wait(LONG)
        copied.append(bytes(data))
        copy_in(pointer, data)

    monkeypatch.setattr(near._objects.memory, "copy_in", slowly)

    async def body():
        task = asyncio.create_task(near.batched_put(keys, chunks))
        await cancelled_within(task, started, go_on)
        overwritten(chunks)
        assert len(copied) == 4 and copied[3] == bytes(chunk(1).memory)  # read before it was overwritten; then no more
        assert await far.batched_get(keys) == [None] * 3  # one call, which was not made

    asyncio.run(asyncio.wait_for(body(), LONG))


@pytest.mark.parametrize("seconds", [0, 0.001, 0.005, 0.02])
def test_a_put_that_takes_too_long_leaves_old_bytes_or_none(pair, first, seconds):
    """Wherever the limit strikes: in the copies, in the call, after it."""
    near, far = pair
    prefix = first.generate_key()
    keys, chunks = [Key(number, prefix) for number in range(6)], [chunk(0, (2 << 20,)) for _ in range(6)]
    before = bytes(chunks[0].memory)

    async def body():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(near.batched_put(keys, chunks), seconds)
        overwritten(chunks)
        found = await far.batched_get(keys)
        assert all(each is None or bytes(each.memory) == before for each in found)
        for key in keys:
            near.remove_sync(key)

    asyncio.run(asyncio.wait_for(body(), LONG))


def test_faults_are_misses(pair, first, caplog):
    near, far = pair
    key = Key(1, first.generate_key())

    async def body():
        await near.put(key, chunk(1))
        far.local_cpu_backend.full = True
        assert await far.get(key) is None and "no memory" in caplog.text
        far.client.close()
        assert await far.get(key) is None and far.exists_sync(key) is False and not far.remove_sync(key)
        assert await far.ping() == 21
        assert "SHUTTING_DOWN" in caplog.text
        with pytest.raises(RuntimeError):
            await far.put(key, chunk(1))
        with pytest.raises(NotImplementedError, match="does not list"):
            await near.list()

    asyncio.run(body())


def test_arguments_are_those_of_lmcache(pair):
    near, far = pair
    assert same_arguments(type(near), RemoteConnector) == []
    assert near.save_chunk_meta and far.config.extra_config["other"] == 1  # what the base class keeps


def test_older_releases(workers, first):
    prefix = first.generate_key()
    keys = [Key(number, prefix) for number in range(3)]
    made = OlderMemoryObject((4,), "torch.uint8", MemoryFormat.UNDEFINED)
    with connectors(workers, OlderRemoteConnector) as (near, far):
        assert same_arguments(type(near), OlderRemoteConnector) == []
        asyncio.run(near.batched_put([keys[0], keys[2]], [made, made]))
        assert far.batched_contains(keys, False) == [True, False, True]
        assert far.batched_contains(keys) == [True, False, False]
        assert asyncio.run(far.get(keys[2])).shape == (4,)
