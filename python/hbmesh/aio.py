"""AsyncClient: the same client for asyncio. No thread waits for an answer: the library writes to an eventfd that the
event loop watches. Calls that the library has only in a form that blocks (connect, close, explain, health_check,
dev_publish, dev_subscribe, reserve_layers, pre_register_device_memory) run on the loop's executor.

Cancelling a coroutine cancels its call at the worker, and waits until the worker has let go of the call's memory before
CancelledError is raised: the memory may be used again. A worker that does not confirm that it stopped (it hangs) is
waited for as long as :attr:`TransferFuture.stop_ms` says; then DeadlineExceededError (WORKER_TIMEOUT) is raised in the
place of CancelledError, since the memory may still be in use.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import weakref
from typing import (
    Any,
    Awaitable,
    Callable,
    Dict,
    Generator,
    Generic,
    List,
    Optional,
    Sequence,
    Set,
    Type,
    TypeVar,
    cast,
)

from . import _native
from ._batch import CallBatch, batch_of, check_uint, set_options
from ._stop import Stop
from .blobs import DeviceBlobList
from .client import Client
from .errors import HbmeshError, StatusCode
from .futures import FUTURE_TIMEOUT_MS_MAX, TransferFuture, result_of_stopped
from .layers import LayerTicket
from .results import BatchResult, ExistResult, Health, MetaResult, WriteResult

R = TypeVar("R", bound=BatchResult)
A = TypeVar("A", bound="AsyncClient")
T = TypeVar("T")


class _Ends:
    """Tells coroutines of one event loop when futures end. Lives as long as the loop, which it does not keep alive."""

    def __init__(self) -> None:
        self._fd = _native.eventfd()
        self._waiting: "Dict[TransferFuture[Any], Set[asyncio.Future[None]]]" = {}
        # Closed with this object; a loop that is gone has dropped its readers.
        weakref.finalize(self, _close_quietly, self._fd)

    async def wait(self, future: "TransferFuture[Any]", seconds: float) -> bool:
        """Has the future ended, at the latest after this time? On cancellation the future is left as it is."""
        if future.done:
            return True
        if seconds <= 0:
            return False
        loop = asyncio.get_running_loop()
        waiter: "asyncio.Future[None]" = loop.create_future()
        timer = loop.call_later(seconds, _release, waiter)
        if not self._waiting:
            loop.add_reader(self._fd, self._look)
        waiters = self._waiting.setdefault(future, set())
        waiters.add(waiter)
        try:
            future.notify(self._fd)
            await waiter
        finally:
            timer.cancel()
            waiters.discard(waiter)
            if not waiters:
                del self._waiting[future]
                future.notify(-1)  # the descriptor may be closed before the future ends
            if not self._waiting:
                loop.remove_reader(self._fd)
        return future.done

    def _look(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        for future, waiters in self._waiting.items():
            if future.done:
                for waiter in waiters:
                    _release(waiter)


def _release(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


def _close_quietly(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass


_ends_of_loops: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Ends]" = weakref.WeakKeyDictionary()


def _ends() -> _Ends:
    loop = asyncio.get_running_loop()
    ends = _ends_of_loops.get(loop)
    if ends is None:
        ends = _ends_of_loops[loop] = _Ends()
    return ends


async def _stop(future: "TransferFuture[Any]", why: str) -> Optional[asyncio.CancelledError]:
    """Ends the call, and returns when the worker has let go of its memory. Cancelling this does not end it earlier: the
    last such error is returned, for the caller to raise. Raises WORKER_TIMEOUT, after `why`: the worker did not confirm
    that it stopped."""
    future.cancel()
    cancelled: Optional[asyncio.CancelledError] = None
    ends, loop = _ends(), asyncio.get_running_loop()
    end = loop.time() + future.stop_ms / 1000
    while loop.time() < end:
        try:
            if await ends.wait(future, end - loop.time()):
                break
        except asyncio.CancelledError as error:
            cancelled = error
    if not future.done:
        raise future.unconfirmed(why)
    return cancelled


async def _finish(future: "TransferFuture[R]") -> R:
    """The call's end. What ends the wait (its limit, cancellation) ends the call first."""
    assert future.limit_ms is not None
    try:
        if await _ends().wait(future, future.limit_ms / 1000):
            return future.result()
    except asyncio.CancelledError:
        await _stop(future, "a call was cancelled")
        raise
    cancelled = await _stop(future, future.expired().message)
    if cancelled is not None:
        raise cancelled
    return result_of_stopped(future, future.expired())


async def _nothing(result: Any) -> None:
    """What there is to undo of most calls."""


async def in_thread(work: Callable[[Stop], T], undo: Callable[[T], Awaitable[None]] = _nothing) -> T:
    """What `work` returns, on the loop's executor: of work that uses its caller's memory, or leaves something behind at
    the worker. Cancelled: asks it to stop, waits for its end, undoes what it returned, then raises CancelledError. Work
    that still waits for a thread does not begin. Where the worker keeps the memory all the same (WORKER_TIMEOUT), that
    is raised in the place of CancelledError, which says that the memory is free."""
    stop = Stop()
    running = asyncio.get_running_loop().run_in_executor(None, lambda: work(stop) if stop.begin() else None)
    cancelled: Optional[asyncio.CancelledError] = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
            if not stop.ask():
                raise
    if cancelled is None:
        return cast(T, running.result())
    failure = running.exception()
    if failure is None:
        await undo(cast(T, running.result()))
    elif isinstance(failure, HbmeshError) and failure.code == StatusCode.WORKER_TIMEOUT:
        raise failure
    raise cancelled


async def _stop_all(futures: "List[AsyncFuture[Any]]") -> None:
    for each in futures:
        each.cancel()
    for each in futures:
        await _stop(each._future, f"the call of key {each.key!r} was cancelled")


class AsyncFuture(Generic[R]):
    """A :class:`TransferFuture` that can be awaited: ``await future`` or ``await future.get(timeout_ms)``. Awaiting it
    from several coroutines of one loop is fine; cancelling one of them leaves the transfer alone.

    Attributes:
        key: the key it is about.
    """

    def __init__(self, future: "TransferFuture[R]") -> None:
        self._future = future
        self.key = future.key

    @property
    def done(self) -> bool:
        return self._future.done

    async def get(self, timeout_ms: int = 60_000) -> R:
        """Waits for the end; arguments and errors as of :meth:`TransferFuture.get`."""
        timeout_ms = check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        if not await _ends().wait(self._future, timeout_ms / 1000):
            raise self._future.still_open(timeout_ms)
        return self._future.result()

    def cancel(self) -> None:
        """Asks for the end of this future alone."""
        self._future.cancel()

    def __await__(self) -> Generator[Any, None, R]:
        return self.get().__await__()


class AsyncLayerTicket:
    """A :class:`LayerTicket` whose layers can be awaited, by any number of tasks of one event loop.

    Attributes:
        text: what the pushing side needs; a secret.
        layer_count: layers 0 to this number - 1.
    """

    def __init__(self, ticket: LayerTicket) -> None:
        self._ticket = ticket
        self.text = ticket.text
        self.layer_count = ticket.layer_count

    async def layer(self, index: int, timeout_ms: int = 60_000) -> None:
        """Returns when all bytes of the layer are there; errors as of :meth:`LayerTicket.layer`."""
        await AsyncFuture(self._ticket._layer(index)).get(timeout_ms)

    async def all(self, timeout_ms: int = 60_000) -> None:
        """Returns when every layer is there."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_ms / 1000
        for index in range(self.layer_count):
            await self.layer(index, max(0, round((end - loop.time()) * 1000)))

    def cancel(self) -> None:
        """Ends the reservation."""
        self._ticket.cancel()


class AsyncClient:
    """:class:`Client` for asyncio: the same arguments and results, awaited. As an asynchronous context manager it
    connects and closes. One client may be used by any number of tasks, also of several event loops.

    Args:
        as of :class:`Client`.
    """

    def __init__(self, host: str, port: int, **options: Any) -> None:
        #: The blocking client underneath.
        self.client = Client(host, port, **options)

    @property
    def address(self) -> str:
        """``IP:PORT`` of the worker."""
        return self.client.address

    @classmethod
    def over(cls: Type[A], client: Client) -> A:
        """An asyncio face of a blocking client, which stays usable; closing one closes both."""
        made = cls.__new__(cls)
        made.client = client
        return made

    @classmethod
    def from_environment(cls: Type[A], **options: Any) -> A:
        """As :meth:`Client.from_environment`."""
        return cls.over(Client.from_environment(**options))

    async def connect(self: A) -> A:
        await asyncio.to_thread(self.client.connect)
        return self

    async def close(self) -> None:
        await asyncio.to_thread(self.client.close)

    async def mset_d2h(
        self,
        keys: Sequence[str],
        blob_lists: Sequence[DeviceBlobList],
        *,
        existence: str = "skip",
        ttl_seconds: float = 0,
        pin: str = "none",
        checksum: bool = False,
    ) -> WriteResult:
        future = self.client.mset_d2h_async(
            keys, blob_lists, existence=existence, ttl_seconds=ttl_seconds, pin=pin, checksum=checksum
        )
        return await _finish(future)

    async def mget_h2d(
        self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList], *, timeout_ms: int = 0
    ) -> BatchResult:
        return await _finish(self.client.mget_h2d_async(keys, blob_lists, timeout_ms=timeout_ms))

    async def mset_d2h_from_multi_buffers(
        self,
        keys: Sequence[str],
        addresses: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
        *,
        device_index: int,
        existence: str = "skip",
        ttl_seconds: float = 0,
        pin: str = "none",
        checksum: bool = False,
    ) -> WriteResult:
        struct = set_options(existence, ttl_seconds, pin, checksum)
        batch = CallBatch(keys, device_index, addresses, sizes)
        return await self._ask(WriteResult, self.client._api.set_d2h_async, batch, ctypes.byref(struct))

    async def mget_h2d_from_multi_buffers(
        self,
        keys: Sequence[str],
        addresses: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
        *,
        device_index: int,
        timeout_ms: int = 0,
    ) -> BatchResult:
        future = self.client.mget_h2d_from_multi_buffers_async(
            keys, addresses, sizes, device_index=device_index, timeout_ms=timeout_ms
        )
        return await _finish(future)

    async def delete(self, keys: Sequence[str]) -> WriteResult:
        return await self._ask(WriteResult, self.client._api.delete_async, CallBatch(keys))

    async def exist(self, keys: Sequence[str]) -> ExistResult:
        return await self._ask(ExistResult, self.client._api.exist_async, CallBatch(keys))

    async def get_meta_info(self, keys: Sequence[str]) -> MetaResult:
        """As of the blocking client, except that more blob sizes than one answer carries are OUT_OF_RANGE."""
        return await self._ask(MetaResult, self.client._api.get_meta_info_async, CallBatch(keys))

    async def explain(self, key: str) -> Dict[str, Any]:
        return await asyncio.to_thread(self.client.explain, key)

    async def dev_publish(
        self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList]
    ) -> "List[AsyncFuture[BatchResult]]":
        def publish(_: Stop) -> "List[AsyncFuture[BatchResult]]":
            return [AsyncFuture(future) for future in self.client.dev_publish(keys, blob_lists)]

        return await in_thread(publish, _stop_all)

    async def dev_subscribe(
        self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList], *, timeout_ms: int = 0
    ) -> "List[AsyncFuture[BatchResult]]":
        def subscribe(_: Stop) -> "List[AsyncFuture[BatchResult]]":
            futures = self.client.dev_subscribe(keys, blob_lists, timeout_ms=timeout_ms)
            return [AsyncFuture(future) for future in futures]

        return await in_thread(subscribe, _stop_all)

    async def dev_mset(
        self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList], *, existence: str = "skip"
    ) -> WriteResult:
        options = set_options(existence)
        batch = batch_of(keys, blob_lists)
        return await self._ask(WriteResult, self.client._api.dev_mset_async, batch, ctypes.byref(options))

    async def dev_mget(
        self,
        keys: Sequence[str],
        blob_lists: Sequence[DeviceBlobList],
        *,
        timeout_ms: int = 0,
        share_replica: bool = False,
    ) -> BatchResult:
        future = self.client.dev_mget_async(keys, blob_lists, timeout_ms=timeout_ms, share_replica=share_replica)
        return await _finish(future)

    async def dev_delete(self, keys: Sequence[str]) -> WriteResult:
        return await _finish(self.client.dev_delete_async(keys))

    async def dev_local_delete(self, keys: Sequence[str]) -> WriteResult:
        return await self._ask(WriteResult, self.client._api.dev_local_delete_async, CallBatch(keys))

    async def reserve_layers(self, layers: Sequence[DeviceBlobList], *, ttl_seconds: float = 600) -> AsyncLayerTicket:
        async def undo(ticket: LayerTicket) -> None:
            ticket.cancel()

        ticket = await in_thread(lambda _: self.client.reserve_layers(layers, ttl_seconds=ttl_seconds), undo)
        return AsyncLayerTicket(ticket)

    async def push(self, ticket_text: str, layer: int, blob_list: DeviceBlobList) -> BatchResult:
        return await _finish(self.client.push_async(ticket_text, layer, blob_list))

    async def pre_register_device_memory(self, pointers: Sequence[int], sizes: Sequence[int]) -> None:
        await in_thread(lambda _: self.client.pre_register_device_memory(pointers, sizes))

    async def health_check(self) -> Health:
        return await asyncio.to_thread(self.client.health_check)

    def generate_key(self, prefix: str = "") -> str:
        return self.client.generate_key(prefix)

    async def _ask(self, kind: Type[R], function: Callable[..., int], batch: CallBatch, *arguments: Any) -> R:
        return await _finish(self.client._future(kind, function, batch, *arguments))

    async def __aenter__(self: A) -> A:
        return await self.connect()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<hbmesh.AsyncClient of {self.address}>"
