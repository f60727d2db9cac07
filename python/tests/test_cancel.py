"""Goal: whatever call is cancelled, by its future or its task, ends with RPC_CANCELLED, or as it would have if that
came first; a time limit is no cancel.
Method: a table of the calls that wait, each cancelled while it does; a large push is cancelled at several moments.
"""

import asyncio
import os
import signal
import time

import pytest
from conftest import LONG, Workers, until

import hbmesh
from hbmesh import AsyncClient, Blob, Client, DeviceBlobList, SimDevice, StatusCode

FOREVER = 1_800_000

# By name: what waits, of a client, a key and a blob list. None: something else than the future is cancelled.
FUTURES = {
    "mget_h2d_async": lambda c, key, m: c.mget_h2d_async([key], [m], timeout_ms=FOREVER),
    "mget_h2d_from_multi_buffers_async": lambda c, key, m: c.mget_h2d_from_multi_buffers_async(
        [key], [[m.blobs[0].pointer]], [[m.blobs[0].size]], device_index=m.device_index, timeout_ms=FOREVER
    ),
    "dev_mget_async": lambda c, key, m: c.dev_mget_async([key], [m], timeout_ms=FOREVER),
    "dev_publish": lambda c, key, m: c.dev_publish([key], [m])[0],
    "dev_subscribe": lambda c, key, m: c.dev_subscribe([key], [m], timeout_ms=FOREVER)[0],
}


@pytest.mark.parametrize("name", FUTURES)
def test_a_future_that_is_cancelled(first, memory, key, name):
    future = FUTURES[name](first, key, memory(0, [64]).list)
    future.cancel()
    future.cancel()
    with pytest.raises(hbmesh.CancelledError, match="cancelled by the caller") as failure:
        future.get(LONG * 1000)
    assert failure.value.code == StatusCode.RPC_CANCELLED and future.done
    until("its owner has heard of it", lambda: first.exist([key]).presences == ["MISS"])


def test_a_ticket_that_is_cancelled(first, memory):
    with first.reserve_layers([memory(0, [64]).list]) as ticket:
        pass
    with pytest.raises(hbmesh.CancelledError, match="cancelled by the caller"):
        ticket.layer(0, LONG * 1000)


TASKS = {
    "mget_h2d": lambda c, key, m: c.mget_h2d([key], [m], timeout_ms=FOREVER),
    "mget_h2d_from_multi_buffers": lambda c, key, m: c.mget_h2d_from_multi_buffers(
        [key], [[m.blobs[0].pointer]], [[m.blobs[0].size]], device_index=m.device_index, timeout_ms=FOREVER
    ),
    "dev_mget": lambda c, key, m: c.dev_mget([key], [m], timeout_ms=FOREVER),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_that_takes_too_long(workers, second, memory, key, name):
    """The memory is its owner's again: what is set then does not come to it."""
    source, target = memory(0, [64], seed=1), memory(1, [64])

    async def body():
        async with AsyncClient(*workers.place(0)) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(TASKS[name](client, key, target.list), 0.02)
            put = client.dev_mset if name == "dev_mget" else client.mset_d2h
            assert await put([key], [source.list])
            assert target.holds()
            assert await (client.dev_delete if name == "dev_mget" else client.delete)([key])

    asyncio.run(asyncio.wait_for(body(), LONG))


def test_a_push_that_is_cancelled_in_its_middle(first, second):
    size, ends = 64 << 20, []
    source, target = SimDevice(0).buffer(size), SimDevice(1).buffer(size)
    for owner, buffer in ((first, source), (second, target)):
        owner.pre_register_device_memory([buffer.pointer], [size])
    for moment in (0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032):
        ticket = second.reserve_layers([DeviceBlobList(1, [Blob(target.pointer, size)])])
        future = first.push_async(ticket.text, 0, DeviceBlobList(0, [Blob(source.pointer, size)]))
        time.sleep(moment)  # wherever it then is
        future.cancel()
        try:
            ends.append(StatusCode(future.get(LONG * 1000).codes[0]).name)
        except hbmesh.HbmeshError as error:
            ends.append(error.code.name)
        ticket.cancel()
        with pytest.raises(hbmesh.HbmeshError) if ends[-1] != "OK" else _nothing():
            ticket.layer(0, LONG * 1000)
    assert set(ends) <= {"OK", "RPC_CANCELLED"} and "RPC_CANCELLED" in ends, ends


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return False


def test_a_time_limit_is_no_cancel(memory):
    """Of the keys of one get, what is there is got. The limit strikes while the sidecar is stopped."""
    source, targets = memory(0, [64], seed=1), [memory(1, [64]), memory(1, [64])]
    with Workers("--workers", "1") as own, Client(*own.place(0), request_timeout_ms=300) as client:
        assert client.mset_d2h(["there"], [source.list])
        client.pre_register_device_memory([t.pointers[0] for t in targets], [64, 64])
        pid = own.about[0]["sidecarPid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            future = client.mget_h2d_async(["not", "there"], [t.list for t in targets], timeout_ms=FOREVER)
            future.limit_ms = 1

            async def awaited():
                from hbmesh.aio import _finish

                asyncio.get_running_loop().call_later(0.2, os.kill, pid, signal.SIGCONT)
                return await _finish(future)

            result = asyncio.run(awaited())
        finally:
            os.kill(pid, signal.SIGCONT)
        assert result.codes == [StatusCode.RPC_DEADLINE_EXCEEDED, StatusCode.OK] and targets[1].holds(1)
        assert "waited 1 ms for worker" in result[0].message
