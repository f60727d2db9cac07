"""The connector behind :mod:`hbmesh.integrations.vllm`; imports vLLM.

Each block of each layer is an object, under a key of vLLM's own block hash (PYTHONHASHSEED must be the same on all
nodes). The scheduler's side asks which blocks are there; the worker's side sets a layer's blocks while the next layer
is computed, and gets all layers at once, in order, so that a layer is waited for only when its turn comes. What could
not be loaded is reported, and vLLM computes it again; what could not be saved is a miss later.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from vllm.distributed import get_tensor_model_parallel_rank
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
)

from hbmesh import BatchResult, Client, HbmeshError, StatusCode, TransferFuture, config
from hbmesh.blobs import device_of
from hbmesh.futures import finish
from hbmesh.integrations.kv_blocks import KeyNames, Piece, pieces_of, place_blocks, rounds_of

logger = logging.getLogger(__name__)

# A lookup asks for so many keys at a time: most prompts miss early, and a call has a limit.
_KEYS_PER_LOOKUP = 4096
# So many blocks of a layer are loaded or saved by one call: below its limit of 10,000 keys, and of what a queue takes.
_BLOCKS_PER_CALL = 4096


@dataclass
class BlockTransfer:
    """Blocks of a request that are to be loaded or saved: hash i belongs to block i."""

    request_id: str
    block_hashes: List[Any]
    block_ids: List[int]
    is_async: bool = False


@dataclass
class HbmeshConnectorMetadata(KVConnectorMetadata):  # type: ignore[misc]
    """What the scheduler tells the workers for one step."""

    loads: List[BlockTransfer] = field(default_factory=list)
    saves: List[BlockTransfer] = field(default_factory=list)


@dataclass
class _Tracked:
    """A request that the scheduler knows."""

    request: Any
    block_ids: List[int] = field(default_factory=list)
    saved: int = 0  # blocks from the start that are saved, loaded, or were there before


def _open_client(vllm_config: Any) -> Client:
    extra = vllm_config.kv_transfer_config.get_from_extra_config
    address, token = extra("address", ""), extra("token", "")
    if address:
        host, port = config.split_address(address)
        return Client(host, port, token=token).connect()
    return Client.from_environment(token=token).connect()


class HbmeshConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """See :mod:`hbmesh.integrations.vllm`.

    Extra configuration:
        address: IP:PORT of the worker on this machine; default: DS_WORKER_ADDR or YR_CONFIG_PATH.
        token: what the worker wants to be told.
        load_async: load between steps instead of within the first one. Default false.
        ttl_seconds: until saved blocks are removed. Default 0: never.
    """

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        groups = kv_cache_config.kv_cache_groups
        if len(groups) != 1:
            raise ValueError(
                f"the model has {len(groups)} KV cache groups: HbmeshConnector is for models whose layers all have the "
                "same kind of cache"
            )
        transfer = vllm_config.kv_transfer_config
        self._saves = transfer.kv_role in ("kv_producer", "kv_both")
        self._loads = transfer.kv_role in ("kv_consumer", "kv_both")
        self._load_async = bool(transfer.get_from_extra_config("load_async", False))
        self._ttl_seconds = float(transfer.get_from_extra_config("ttl_seconds", 0))
        self._block_size = int(vllm_config.cache_config.block_size)
        self._ranks = int(vllm_config.parallel_config.tensor_parallel_size)
        self._layer_names: List[str] = list(groups[0].layer_names)
        model = vllm_config.model_config
        names = (model.model, model.dtype, vllm_config.cache_config.cache_dtype, self._block_size)
        self._names = KeyNames(*names, ranks=self._ranks)
        self._block_count = int(kv_cache_config.num_blocks)
        self._client = _open_client(vllm_config)
        if role == KVConnectorRole.SCHEDULER:
            self._tracked: Dict[str, _Tracked] = {}
            self._to_load: List[BlockTransfer] = []
            self._hits: Dict[str, Tuple[int, int]] = {}
        else:
            self._worker = _Worker(self)

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: Dict[str, Any]) -> bool:
        """Layers are waited for and saved one by one, which a captured graph would skip."""
        return True

    @property
    def requires_kv_delivery(self) -> bool:
        """A cache: what is not saved is a miss later."""
        return False

    # ---- The scheduler's side ----------------------------------------------------------------------------------------

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Tuple[Optional[int], bool]:
        """How many tokens beyond those can be loaded. At least one token is left to compute."""
        first = num_computed_tokens // self._block_size
        usable = min(len(request.block_hashes), (request.num_tokens - 1) // self._block_size)
        if not self._loads or usable <= first:
            return 0, False
        end = first + self._count_hits(list(request.block_hashes[first:usable]))
        tokens = end * self._block_size - num_computed_tokens
        if tokens <= 0:
            return 0, False
        self._hits[request.request_id] = (first, end)
        return tokens, self._load_async

    def _count_hits(self, hashes: Sequence[Any]) -> int:
        """Blocks from the start that every rank has, by their first and last layer: layers are set in order, and what
        was evicted in between is found out when it is loaded."""
        layers = {self._layer_names[0], self._layer_names[-1]}
        places = [(rank, layer) for rank in range(self._ranks) for layer in sorted(layers)]
        step = max(1, _KEYS_PER_LOOKUP // len(places))
        for start in range(0, len(hashes), step):
            part = hashes[start : start + step]
            keys = [self._names.key(rank, layer, each) for each in part for rank, layer in places]
            try:
                found = dict(zip(dict.fromkeys(keys), self._client.exist(list(dict.fromkeys(keys))).codes))
            except HbmeshError as error:
                logger.warning("hbmesh: lookup failed, going on without it: %s", error)
                return start
            for index in range(0, len(keys), len(places)):
                if any(found[key] != StatusCode.OK for key in keys[index : index + len(places)]):
                    return start + index // len(places)
        return len(hashes)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Remembers the request, and what is to be loaded into its blocks."""
        tracked = self._tracked.setdefault(request.request_id, _Tracked(request))
        tracked.request = request
        hit = self._hits.pop(request.request_id, None)
        if num_external_tokens <= 0 or hit is None:
            return
        first, end = hit
        ids = list(blocks.get_block_ids()[0])
        hashes = list(request.block_hashes[first:end])
        self._to_load.append(BlockTransfer(request.request_id, hashes, ids[first:end], self._load_async))
        tracked.saved = max(tracked.saved, end)

    def build_connector_meta(self, scheduler_output: Any) -> HbmeshConnectorMetadata:
        """What this step loads, and which full blocks of prompts it will have computed."""
        meta = HbmeshConnectorMetadata(loads=self._to_load)
        self._to_load = []
        scheduled = scheduler_output.num_scheduled_tokens
        for new in scheduler_output.scheduled_new_reqs:
            tracked = self._tracked.get(new.req_id)
            if tracked is not None:
                tracked.block_ids = list(new.block_ids[0])
                self._plan_save(meta, new.req_id, tracked, new.num_computed_tokens, scheduled[new.req_id])
        cached = scheduler_output.scheduled_cached_reqs
        for index, request_id in enumerate(cached.req_ids):
            tracked = self._tracked.get(request_id)
            if tracked is None:
                continue
            added = cached.new_block_ids[index]
            ids = [] if added is None else list(added[0])
            tracked.block_ids = ids if request_id in cached.resumed_req_ids else tracked.block_ids + ids
            self._plan_save(meta, request_id, tracked, cached.num_computed_tokens[index], scheduled[request_id])
        for request_id in scheduler_output.finished_req_ids:
            self._tracked.pop(request_id, None)
            self._hits.pop(request_id, None)
        return meta

    def _plan_save(
        self, meta: HbmeshConnectorMetadata, request_id: str, tracked: _Tracked, computed: int, scheduled: int
    ) -> None:
        if not self._saves:
            return
        request = tracked.request
        start = max(tracked.saved, computed // self._block_size)
        prompt = min(request.num_prompt_tokens, computed + scheduled) // self._block_size
        end = min(prompt, len(request.block_hashes), len(tracked.block_ids))
        if end > start:
            hashes = list(request.block_hashes[start:end])
            meta.saves.append(BlockTransfer(request_id, hashes, tracked.block_ids[start:end]))
            tracked.saved = end

    def request_finished(self, request: Any, block_ids: List[int]) -> Tuple[bool, Optional[Dict[str, Any]]]:
        """Its blocks may be freed: saves end within their step."""
        self._tracked.pop(request.request_id, None)
        return False, None

    # ---- The worker's side -------------------------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: Dict[str, Any]) -> None:
        """Learns where the layers are, and registers their memory."""
        self._worker.register(kv_caches)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Asks for all layers of all blocks; they arrive in order."""
        self._worker.start_load(self._get_connector_metadata().loads)

    def wait_for_layer_load(self, layer_name: str) -> None:
        self._worker.wait_layer(layer_name)

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Sets the layer's blocks, once the device has computed them, on another thread."""
        self._worker.save_layer(layer_name, kv_layer, self._get_connector_metadata().saves)

    def wait_for_save(self) -> None:
        self._worker.end_step()

    def get_finished(self, finished_req_ids: Set[str]) -> Tuple[Optional[Set[str]], Optional[Set[str]]]:
        """Requests whose asynchronous load has ended."""
        return None, self._worker.take_loaded() or None

    def get_block_ids_with_load_errors(self) -> Set[int]:
        return self._worker.take_failed_blocks()

    def shutdown(self) -> None:
        if self.role == KVConnectorRole.WORKER:
            self._worker.close()
        self._client.close()


class _Load(NamedTuple):
    """Blocks of a layer that are on their way."""

    future: TransferFuture[BatchResult]
    block_ids: List[int]


class _Worker:
    """Transfers of one worker process. Called by its model runner's thread alone; saves run on one thread of their own,
    so that layers are set in their order."""

    def __init__(self, connector: HbmeshConnector) -> None:
        self._client = connector._client
        self._names = connector._names
        self._ttl_seconds = connector._ttl_seconds
        self._block_count = connector._block_count
        self._rank = int(get_tensor_model_parallel_rank())
        self._layers: Dict[str, List[Piece]] = {}
        self._device = 0
        self._layer_loads: Dict[str, List[_Load]] = {}
        self._async_loads: Dict[str, List[_Load]] = {}
        self._failed_blocks: Set[int] = set()
        self._saves: List[Future[None]] = []
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="hbmesh-save")

    def register(self, kv_caches: Dict[str, Any]) -> None:
        for name, cache in kv_caches.items():
            self._layers[name] = pieces_of(cache, self._block_count)
            self._device = device_of(cache[0] if isinstance(cache, (tuple, list)) else cache, 0)
        starts = [piece.start for pieces in self._layers.values() for piece in pieces]
        lengths = [piece.step * self._block_count for pieces in self._layers.values() for piece in pieces]
        self._client.pre_register_device_memory(starts, lengths)

    def start_load(self, loads: Sequence[BlockTransfer]) -> None:
        now = [load for load in loads if not load.is_async]
        if now:
            hashes = [each for load in now for each in load.block_hashes]
            ids = [each for load in now for each in load.block_ids]
            for layer in self._layers:
                self._layer_loads[layer] = self._get(layer, hashes, ids)
        for load in loads:
            if load.is_async:
                wanted = (self._get(layer, load.block_hashes, load.block_ids) for layer in self._layers)
                self._async_loads[load.request_id] = [each for futures in wanted for each in futures]

    def _get(self, layer: str, hashes: Sequence[Any], ids: Sequence[int]) -> "List[_Load]":
        made = []
        all_keys = [self._names.key(self._rank, layer, each) for each in hashes]
        for keys, some_ids in rounds_of(all_keys, ids, _BLOCKS_PER_CALL):
            addresses, sizes = place_blocks(self._layers[layer], some_ids)
            try:
                future = self._client.mget_h2d_from_multi_buffers_async(
                    keys, addresses, sizes, device_index=self._device
                )
                made.append(_Load(future, some_ids))
            except HbmeshError as error:
                self._note_failure(layer, some_ids, error)
        return made

    def wait_layer(self, layer: str) -> None:
        for load in self._layer_loads.pop(layer, []):
            self._take_end(layer, load)

    def _take_end(self, layer: str, load: "_Load") -> None:
        try:
            # What is given up is stopped first: its blocks are computed again, and nothing may write to them then.
            result = finish(load.future)
        except HbmeshError as error:
            self._note_failure(layer, load.block_ids, error)
            return
        failed = [block for block, code in zip(load.block_ids, result.codes) if code != StatusCode.OK]
        if failed:
            self._note_failure(layer, failed, result.error())

    def _note_failure(self, layer: str, ids: Sequence[int], error: Optional[HbmeshError]) -> None:
        self._failed_blocks.update(ids)
        logger.warning("hbmesh: %d blocks of %s were not loaded: %s", len(ids), layer, error)

    def take_failed_blocks(self) -> Set[int]:
        failed, self._failed_blocks = self._failed_blocks, set()
        return failed

    def take_loaded(self) -> Set[str]:
        ended = {name for name, loads in self._async_loads.items() if all(each.future.done for each in loads)}
        for name in ended:
            for load in self._async_loads.pop(name):
                self._take_end(f"request {name}", load)
        return ended

    def save_layer(self, layer: str, kv_layer: Any, saves: Sequence[BlockTransfer]) -> None:
        if not saves or layer not in self._layers:
            return
        # Blocks with the same hash have the same bytes: one of them is enough.
        blocks = {
            self._names.key(self._rank, layer, each): block
            for save in saves
            for each, block in zip(save.block_hashes, save.block_ids)
        }
        computed = _record(kv_layer)
        self._saves.append(self._saver.submit(self._set, layer, blocks, computed))

    def _set(self, layer: str, blocks: Dict[str, int], computed: Any) -> None:
        if computed is not None:
            computed.synchronize()
        for keys, ids in rounds_of(list(blocks), list(blocks.values()), _BLOCKS_PER_CALL):
            addresses, sizes = place_blocks(self._layers[layer], ids)
            result = self._client.mset_d2h_from_multi_buffers(
                keys, addresses, sizes, device_index=self._device, ttl_seconds=self._ttl_seconds
            )
            result.raise_for_failures()

    def end_step(self) -> None:
        """Nothing of the step is under way afterwards, also where the model passed a layer over."""
        for layer in list(self._layer_loads):
            self.wait_layer(layer)
        self.wait_saves()

    def wait_saves(self) -> None:
        saves, self._saves = self._saves, []
        for save in saves:
            try:
                save.result()
            except HbmeshError as error:
                logger.warning("hbmesh: blocks were not saved: %s", error)

    def close(self) -> None:
        self.wait_saves()
        self._saver.shutdown()


def _record(tensor: Any) -> Any:
    """An event of the device's current stream, which is reached when the layer is computed; None where the tensor's
    device has no streams."""
    kind = getattr(getattr(tensor, "device", None), "type", None)
    if kind not in ("npu", "cuda"):
        return None
    import torch

    event = getattr(torch, kind).Event()
    event.record()
    return event
