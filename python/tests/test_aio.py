"""Goal: the asyncio client gives the same answers without threads that wait, and cancels what is cancelled.
Method: coroutines against two workers; cancellation is followed by a look at the call's memory and at a later get.
"""

import asyncio
import gc
import inspect
import os
import threading

import pytest
from conftest import LONG

import hbmesh
from hbmesh import AsyncClient, Client


def run(workers, body):
    async def both():
        async with AsyncClient(*workers.place(0)) as first, AsyncClient(*workers.place(1)) as second:
            return await asyncio.wait_for(body(first, second), LONG)

    return asyncio.run(both())


def test_set_and_get(workers, memory):
    async def body(first, second):
        key = first.generate_key("aio")
        source, target = memory(0, [4096], seed=1), memory(1, [4096])
        waiting = asyncio.create_task(second.mget_h2d([key], [target.list], timeout_ms=LONG * 1000))
        assert (await first.mset_d2h([key], [source.list], checksum=True)).existed == [False]
        assert await waiting and target.holds(1)
        assert (await second.exist([key, f"{key}-not"])).presences == ["HIT", "MISS"]
        assert (await second.get_meta_info([key])).metas[0].blob_sizes == [4096]
        assert (await second.explain(key))["key"] == key
        assert (await first.delete([key])).existed == [True]
        assert (await first.health_check()).ready
        await first.pre_register_device_memory(source.pointers, source.sizes)

    run(workers, body)


def test_many_calls_at_once(workers, memory):
    async def body(first, second):
        pairs = [(memory(0, [256], seed=n), memory(1, [256]), first.generate_key("aio")) for n in range(40)]
        gets = [second.mget_h2d([key], [target.list], timeout_ms=LONG * 1000) for _, target, key in pairs]
        sets = [first.mset_d2h([key], [source.list]) for source, _, key in pairs]
        answers = await asyncio.gather(*gets, *sets)
        assert all(answers) and all(target.holds(n) for n, (_, target, _) in enumerate(pairs))
        await first.delete([key for _, _, key in pairs])

    run(workers, body)


def test_cancelling_a_get_ends_it_at_the_worker(workers, memory):
    async def body(first, second):
        key = first.generate_key("aio")
        source, target = memory(0, [64], seed=2), memory(1, [64])
        task = asyncio.create_task(second.mget_h2d([key], [target.list], timeout_ms=1_800_000))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The memory is ours again: a set that comes now is not read into it.
        assert await first.mset_d2h([key], [source.list])
        assert await second.mget_h2d([key], [memory(2, [64]).list]) and target.holds()
        await first.delete([key])

    run(workers, body)


def test_cancelling_again_and_again_still_waits_for_the_worker(workers, memory):
    """Whoever cancels a second time, as asyncio.run does with all tasks, does not get the memory before it is free."""

    async def body(first, second):
        key = first.generate_key("aio")
        source, target = memory(0, [64], seed=2), memory(1, [64])
        for count in range(1, 5):
            task = asyncio.create_task(second.mget_h2d([key], [target.list], timeout_ms=1_800_000))
            await asyncio.sleep(0)
            for _ in range(count):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await first.mset_d2h([key], [source.list])
            assert await second.mget_h2d([key], [memory(2, [64]).list]) and target.holds()
            assert (await first.delete([key])).existed == [True]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(second.mget_h2d([key], [target.list], timeout_ms=1_800_000), 0.05)

    run(workers, body)


def test_cancelling_a_call_whose_limit_is_over_is_not_lost():
    """A worker that is slow to confirm: the task is cancelled in the meantime."""

    class Slow:
        limit_ms, stop_ms, done, asked, fd = 1, LONG * 1000, False, None, -1

        def cancel(self):
            self.asked.set()

        def notify(self, fd):
            self.fd = fd

        def expired(self):
            return hbmesh.DeadlineExceededError(1001, "waited 1 ms")

        def result(self):
            raise hbmesh.HbmeshError(0, "its result is not asked for")

    async def body():
        call = Slow()
        call.asked = asyncio.Event()
        task = asyncio.create_task(hbmesh.aio._finish(call))
        await call.asked.wait()
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
        call.done = True
        os.write(call.fd, (1).to_bytes(8, "little"))
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())


def test_cancelling_what_publishes_takes_it_back(workers, memory, monkeypatch):
    """The call itself can't be cut off: it is on another thread. What it published, subscribed or reserved ends."""

    async def body(first, second):
        key = first.generate_key("aio")
        piece, told, go_on = memory(0, [64], seed=4), threading.Event(), threading.Event()

        def slowly(call):
            def slow(*arguments, **options):
                told.set()
                assert go_on.wait(LONG)
                return call(*arguments, **options)

            return slow

        for name, arguments in (
            ("dev_publish", ([key], [piece.list])),
            ("dev_subscribe", ([f"{key}-other"], [piece.list])),
            ("reserve_layers", ([piece.list],)),
        ):
            told.clear(), go_on.clear()
            made = []
            call = getattr(first.client, name)
            monkeypatch.setattr(
                first.client, name, slowly(lambda *a, c=call, m=made, **o: m.append(c(*a, **o)) or m[-1])
            )
            task = asyncio.create_task(getattr(first, name)(*arguments))
            await asyncio.to_thread(told.wait, LONG)
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()  # it waits for the thread
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            (result,) = made
            future = result.future(0) if name == "reserve_layers" else result[0]
            with pytest.raises(hbmesh.CancelledError):
                future.get(LONG * 1000)
        assert (await second.exist([key])).presences == ["MISS"]

    run(workers, body)


def test_multi_buffers(workers, memory):
    async def body(first, second):
        key = first.generate_key("aio")
        source, target = memory(0, [300, 40], seed=5), memory(1, [300, 40])
        put = await first.mset_d2h_from_multi_buffers(
            [key], [source.pointers], [source.sizes], device_index=0, pin="soft"
        )
        assert put.existed == [False]
        got = await second.mget_h2d_from_multi_buffers([key], [target.pointers], [target.sizes], device_index=1)
        assert got and target.holds(5) and (await first.delete([key])).existed == [True]

    run(workers, body)


def test_it_has_the_calls_of_the_blocking_client():
    """Same names, arguments and defaults. Calls with a future are not needed here: a task is one."""
    calls = {name for name in dir(Client) if not name.startswith("_")}
    later = {name for name in calls if name.endswith("_async")}
    calls -= later
    assert len(later) == 7 and calls - set(dir(AsyncClient)) == set()
    for name in calls - {"from_environment"}:
        usual = [inspect.signature(getattr(kind, name)).parameters.values() for kind in (Client, AsyncClient)]
        ours, theirs = ([(p.name, p.default, p.kind, p.annotation) for p in each][1:] for each in usual)
        assert ours == theirs, name


def test_event_loops_come_and_go(workers):
    """Each asyncio.run has a loop of its own, which takes its descriptors with it."""
    client = AsyncClient(*workers.place(0))
    asyncio.run(client.connect())

    def descriptors():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    asyncio.run(waits(client))
    before = descriptors()
    for _ in range(20):
        asyncio.run(waits(client))
    assert descriptors() == before
    asyncio.run(client.close())


async def waits(client):
    """Something that is not there at once."""
    answers = await asyncio.gather(*[client.exist([f"nothing-{number}"]) for number in range(3)])
    assert [answer.presences for answer in answers] == [["MISS"]] * 3


def test_futures_and_device_cache(workers, memory):
    async def body(first, second):
        key = first.generate_key("aio")
        source, target = memory(0, [64], seed=3), memory(1, [64])
        (received,) = await second.dev_subscribe([key], [target.list])
        assert not received.done and received.key == key
        with pytest.raises(hbmesh.FutureTimeoutError):
            await received.get(1)
        (sent,) = await first.dev_publish([key], [source.list])
        assert (await received).bytes == [64] and await sent and target.holds(3)
        (shared,) = await second.dev_subscribe([key], [target.list])
        one, two = asyncio.create_task(shared.get()), asyncio.create_task(shared.get())
        await asyncio.sleep(0)
        one.cancel()  # the other still waits, and the transfer goes on
        with pytest.raises(asyncio.CancelledError):
            await one
        (sent,) = await first.dev_publish([key], [source.list])
        assert (await two).bytes == [64] and await sent
        (unwanted,) = await second.dev_subscribe([key], [target.list])
        unwanted.cancel()
        with pytest.raises(hbmesh.CancelledError):
            await unwanted
        assert await first.dev_mset([key], [source.list])
        target.fill()
        assert await second.dev_mget([key], [target.list], share_replica=True) and target.holds(3)
        assert await second.dev_local_delete([key])
        assert (await first.dev_delete([key])).existed == [True]

    run(workers, body)


def test_layers(workers, memory):
    async def body(first, second):
        targets = [memory(1, [64]) for _ in range(2)]
        ticket = await second.reserve_layers([target.list for target in targets], ttl_seconds=LONG)
        everything = asyncio.create_task(ticket.all(LONG * 1000))
        for layer in range(ticket.layer_count):
            assert await first.push(ticket.text, layer, memory(0, [64], seed=layer).list)
            await ticket.layer(layer)
            assert targets[layer].holds(layer)
        await everything
        ticket.cancel()

    run(workers, body)


def test_errors_are_those_of_the_blocking_client(workers, memory):
    async def body(first, second):
        with pytest.raises(hbmesh.InvalidError) as failure:
            await first.exist(["b b"])
        assert failure.value.key == "b b"
        with pytest.raises(ValueError, match="keys"):
            await first.mset_d2h(["a"], [])
        pending = asyncio.create_task(second.mget_h2d(["never"], [memory(1, [64]).list], timeout_ms=1_800_000))
        await asyncio.sleep(0)
        await second.close()
        with pytest.raises(hbmesh.ShuttingDownError):
            await pending
        assert repr(first) == f"<hbmesh.AsyncClient of {first.address}>"

    run(workers, body)


def test_a_loop_that_ends_with_calls_open_leaves_no_descriptor_in_use(workers, memory):
    """The library writes to a loop's eventfd. Once the loop is gone that number may be another file's."""
    client = AsyncClient(*workers.place(0))
    target = memory(1, [64])

    async def body():
        await client.connect()
        (future,) = await client.dev_subscribe(["never-published"], [target.list], timeout_ms=1_800_000)
        waiting = asyncio.create_task(future.get())
        await asyncio.sleep(0)
        assert not waiting.done()
        return future

    future = asyncio.run(body())  # cancels the task
    gc.collect()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    spare = [os.dup(writer) for _ in range(8)]  # one of them has the eventfd's number
    future.cancel()
    with pytest.raises(hbmesh.CancelledError):
        asyncio.run(future.get())
    with pytest.raises(BlockingIOError):
        os.read(reader, 8)
    for each in (reader, writer, *spare):
        os.close(each)
    asyncio.run(client.close())


def test_a_client_serves_one_loop_after_the_other(workers):
    client = AsyncClient(*workers.place(0))
    asyncio.run(client.connect())
    for _ in range(2):
        assert asyncio.run(client.exist(["nothing"])).presences == ["MISS"]
    asyncio.run(client.close())
