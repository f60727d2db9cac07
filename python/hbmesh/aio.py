"""AsyncClient: the same client for asyncio. No thread waits for an answer: the library writes to an eventfd that the
event loop watches.

Cancelling a coroutine cancels its call at the worker, and waits until the worker has let go of the call's device memory
before CancelledError is raised, so that the memory may be used again.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import weakref
from typing import Any, Callable, Dict, Generic, List, Sequence, Set, Type, TypeVar

from ._batch import CallBatch, batch_of, check_uint, set_options
from .blobs import DeviceBlobList
from .client import Client
from .futures import FUTURE_TIMEOUT_MS_MAX, TransferFuture
from .layers import LayerTicket
from .results import BatchResult, ExistResult, Health, MetaResult, WriteResult

R = TypeVar("R", bound=BatchResult)

_ENDED = 0  # get(timeout_ms) of a future that has ended does not wait


class _Ends:
    """Tells coroutines of one event loop when futures end. Lives as long as the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fd = _eventfd()
        self._waiting: "Dict[TransferFuture[Any], Set[asyncio.Future[None]]]" = {}
        # Closed with this object; a loop that is gone has dropped its readers.
        weakref.finalize(self, _close_quietly, self._fd)

    async def wait(self, future: "TransferFuture[Any]") -> None:
        """Returns when the future has ended. On cancellation the future is left as it is."""
        if future.done:
            return
        waiter: "asyncio.Future[None]" = self._loop.create_future()
        if not self._waiting:
            self._loop.add_reader(self._fd, self._look)
        waiters = self._waiting.setdefault(future, set())
        waiters.add(waiter)
        try:
            future.notify(self._fd)
            await waiter
        finally:
            waiters.discard(waiter)
            if not waiters:
                del self._waiting[future]
                future.notify(-1)  # the descriptor may be closed before the future ends
            if not self._waiting:
                self._loop.remove_reader(self._fd)

    def _look(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        for future, waiters in self._waiting.items():
            if future.done:
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)


def _eventfd() -> int:
    libc = ctypes.CDLL(None, use_errno=True)  # os.eventfd is there from Python 3.10 on
    fd: int = libc.eventfd(0, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"no eventfd: {os.strerror(code)}")
    return fd


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
        ends = _ends_of_loops[loop] = _Ends(loop)
    return ends


async def _finish(future: "TransferFuture[R]") -> R:
    """The future's end. Cancelled: ends the call first, then raises CancelledError."""
    ends = _ends()
    try:
        await ends.wait(future)
    except asyncio.CancelledError:
        future.cancel()
        await asyncio.shield(asyncio.ensure_future(ends.wait(future)))
        raise
    return future.get(_ENDED)


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
        check_uint(timeout_ms, "timeout_ms", FUTURE_TIMEOUT_MS_MAX)
        if timeout_ms > 0:
            try:
                await asyncio.wait_for(_ends().wait(self._future), timeout_ms / 1000)
            except asyncio.TimeoutError:
                pass  # get says so, unless it ended just now
        return self._future.get(_ENDED)

    def cancel(self) -> None:
        """Asks for the end of this future alone."""
        self._future.cancel()

    def __await__(self) -> Any:
        return self.get().__await__()


class AsyncLayerTicket:
    """A :class:`LayerTicket` whose layers can be awaited.

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
        await AsyncFuture(self._ticket.future(index)).get(timeout_ms)

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

    async def connect(self) -> "AsyncClient":
        await asyncio.to_thread(self.client.connect)
        return self

    async def close(self) -> None:
        await asyncio.to_thread(self.client.close)

    async def mset_d2h(self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList], **options: Any) -> WriteResult:
        """Options: `existence`, `ttl_seconds`, `pin`, `checksum`."""
        return await _finish(self.client.mset_d2h_async(keys, blob_lists, **options))

    async def mget_h2d(
        self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList], *, timeout_ms: int = 0
    ) -> BatchResult:
        return await _finish(self.client.mget_h2d_async(keys, blob_lists, timeout_ms=timeout_ms))

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
        futures = await asyncio.to_thread(self.client.dev_publish, keys, blob_lists)
        return [AsyncFuture(future) for future in futures]

    async def dev_subscribe(
        self, keys: Sequence[str], blob_lists: Sequence[DeviceBlobList], *, timeout_ms: int = 0
    ) -> "List[AsyncFuture[BatchResult]]":
        # Registration of device memory may take a round trip: not on the loop's thread.
        subscribe: Callable[..., Any] = self.client.dev_subscribe
        futures = await asyncio.to_thread(subscribe, keys, blob_lists, timeout_ms=timeout_ms)
        return [AsyncFuture(future) for future in futures]

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
        reserve: Callable[..., LayerTicket] = self.client.reserve_layers
        return AsyncLayerTicket(await asyncio.to_thread(reserve, layers, ttl_seconds=ttl_seconds))

    async def push(self, ticket_text: str, layer: int, blob_list: DeviceBlobList) -> BatchResult:
        return await _finish(self.client.push_async(ticket_text, layer, blob_list))

    async def pre_register_device_memory(self, pointers: Sequence[int], sizes: Sequence[int]) -> None:
        await asyncio.to_thread(self.client.pre_register_device_memory, pointers, sizes)

    async def health_check(self) -> Health:
        return await asyncio.to_thread(self.client.health_check)

    def generate_key(self, prefix: str = "") -> str:
        return self.client.generate_key(prefix)

    async def _ask(self, kind: Type[R], function: Callable[..., int], batch: CallBatch, *arguments: Any) -> R:
        return await _finish(self.client._future(kind, function, batch, *arguments))

    async def __aenter__(self) -> "AsyncClient":
        return await self.connect()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<hbmesh.AsyncClient of {self.address}>"
