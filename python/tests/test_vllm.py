"""Goal: blocks that one vLLM instance computed are loaded by another, layer by layer; what can't be loaded is reported.
Method: scheduler's and worker's side of HbmeshConnector on stand-ins for vLLM's classes, with KV caches that are numpy
arrays over simulated device memory, in layouts that attention backends use; a prefill instance on worker 1, a decode
instance on worker 2.
"""

import pickle
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
from conftest import until
from engines import KVConnectorBase_V1, KVConnectorRole, installed, same_arguments, vllm_modules

from hbmesh import SimDevice
from hbmesh.integrations.kv_blocks import KeyNames, hash_text, pieces_of, place_blocks, rounds_of

numpy = pytest.importorskip("numpy")
LAYERS = [f"model.layers.{number}.self_attn.attn" for number in range(3)]
BLOCKS, BLOCK_SIZE = 8, 4


class Cache:
    """A KV cache tensor as vLLM hands it over."""

    def __init__(self, device, shape, order=None):
        memory = SimDevice(device).array(shape, "float16")
        memory[...] = 0
        self.array = memory if order is None else memory.transpose(order)
        self.device = SimpleNamespace(type="sim", index=device)
        self.shape = self.array.shape

    def data_ptr(self):
        return self.array.ctypes.data

    def element_size(self):
        return 2

    def stride(self):
        return tuple(step // 2 for step in self.array.strides)

    def block(self, index, dimension):
        return numpy.take(self.array, index, axis=dimension)


LAYOUTS = {
    "keys and values before blocks": (lambda device: Cache(device, (2, BLOCKS, BLOCK_SIZE, 2, 8)), 1),
    "blocks first": (lambda device: Cache(device, (BLOCKS, 2, BLOCK_SIZE, 2, 8)), 0),
    "heads before tokens in memory": (lambda device: Cache(device, (BLOCKS, 2, BLOCK_SIZE, 16), (0, 2, 1, 3)), 0),
}


class Instance:
    """A vLLM instance: what its scheduler and its worker do with the connector."""

    def __init__(self, address, role, device, layout, prefix, **extra):
        from hbmesh.integrations.vllm import HbmeshConnector

        options = {"address": address, **extra}
        transfer = SimpleNamespace(
            kv_role=role,
            is_kv_producer=role != "kv_consumer",
            get_from_extra_config=lambda name, default: options.get(name, default),
        )
        config = SimpleNamespace(
            kv_transfer_config=transfer,
            cache_config=SimpleNamespace(block_size=BLOCK_SIZE, cache_dtype="auto"),
            parallel_config=SimpleNamespace(tensor_parallel_size=1),
            model_config=SimpleNamespace(model=f"org/model-{prefix}", dtype="torch.float16"),
        )
        caches = SimpleNamespace(num_blocks=BLOCKS, kv_cache_groups=[SimpleNamespace(layer_names=LAYERS)])
        self.scheduler = HbmeshConnector(config, KVConnectorRole.SCHEDULER, caches)
        self.worker = HbmeshConnector(config, KVConnectorRole.WORKER, caches)
        make, self.dimension = LAYOUTS[layout]
        self.caches = {name: make(device) for name in LAYERS}
        self.worker.register_kv_caches(self.caches)

    def schedule(self, request, block_ids, scheduled, computed=0):
        """One step of the scheduler for a new request; returns tokens that are loaded, and the step's metadata."""
        tokens, is_async = self.scheduler.get_num_new_matched_tokens(request, computed)
        self.scheduler.update_state_after_alloc(request, SimpleNamespace(get_block_ids=lambda: (block_ids,)), tokens)
        new = SimpleNamespace(req_id=request.request_id, block_ids=(block_ids,), num_computed_tokens=computed + tokens)
        return (tokens, is_async), self.meta([new], {request.request_id: scheduled})

    def meta(self, new=(), scheduled=None, cached=None, finished=()):
        output = SimpleNamespace(
            scheduled_new_reqs=list(new),
            scheduled_cached_reqs=cached
            or SimpleNamespace(req_ids=[], new_block_ids=[], num_computed_tokens=[], resumed_req_ids=set()),
            num_scheduled_tokens=scheduled or {},
            finished_req_ids=set(finished),
        )
        return pickle.loads(pickle.dumps(self.scheduler.build_connector_meta(output)))  # it goes to other processes

    def step(self, meta, compute=None):
        """One step of the model: layer by layer, `compute(layer name)` fills the caches."""
        self.worker.bind_connector_metadata(meta)
        self.worker.start_load_kv(SimpleNamespace())
        for name in LAYERS:
            self.worker.wait_for_layer_load(name)
            if compute is not None:
                compute(name)
            self.worker.save_kv_layer(name, self.caches[name], None)
        self.worker.wait_for_save()
        self.worker.clear_connector_metadata()

    def fill(self, blocks, seed):
        def compute(name):
            for block in blocks:
                view = self.caches[name].array
                place = (slice(None),) * self.dimension + (block,)
                view[place] = seed + LAYERS.index(name) * 10 + blocks.index(block)

        return compute

    def close(self):
        self.worker.shutdown()
        self.scheduler.shutdown()


def request_of(name, tokens, word=b"w"):
    hashes = [word * 31 + bytes([index]) for index in range(tokens // BLOCK_SIZE)]
    return SimpleNamespace(request_id=name, num_tokens=tokens, num_prompt_tokens=tokens, block_hashes=hashes)


@pytest.fixture(params=list(LAYOUTS))
def pair(workers, first, request):
    with installed(vllm_modules()):
        prefix = first.generate_key()
        prefill = Instance(workers.addresses[0], "kv_producer", 0, request.param, prefix)
        decode = Instance(workers.addresses[1], "kv_consumer", 1, request.param, prefix)
        yield prefill, decode
        prefill.close()
        decode.close()


def test_prefill_saves_and_decode_loads(pair):
    prefill, decode = pair
    request = request_of("r1", 14)  # 3 full blocks and 2 tokens
    matched, meta = prefill.schedule(request, [5, 2, 7, 1], 14)
    assert matched == (0, False)
    assert [(s.request_id, s.block_ids) for s in meta.saves] == [("r1", [5, 2, 7])] and meta.loads == []
    prefill.step(meta, prefill.fill([5, 2, 7], seed=100))
    matched, meta = decode.schedule(request, [0, 3, 6, 4], 2)
    assert matched == (12, False) and meta.saves == []
    assert [(load.block_ids, load.is_async) for load in meta.loads] == [([0, 3, 6], False)]
    decode.step(meta)
    assert decode.worker.get_block_ids_with_load_errors() == set()
    for number, name in enumerate(LAYERS):
        for index, block in enumerate([0, 3, 6]):
            got = decode.caches[name].block(block, decode.dimension)
            assert (got == 100 + number * 10 + index).all()
        assert not decode.caches[name].block(4, decode.dimension).any()


def test_what_is_gone_is_reported_and_what_is_known_is_not_loaded(pair, first):
    prefill, decode = pair
    request = request_of("r2", 13, b"x")
    _, meta = prefill.schedule(request, [0, 1, 2, 3], 13)
    prefill.step(meta, prefill.fill([0, 1, 2], seed=50))
    matched, meta = decode.schedule(request, [4, 5, 6, 7], 9, computed=4)
    assert matched == (8, False) and meta.loads[0].block_ids == [5, 6]
    lost = prefill.worker._names.key(0, LAYERS[1], request.block_hashes[2])
    assert first.delete([lost]).existed == [True]
    decode.step(meta)
    assert decode.worker.get_block_ids_with_load_errors() == {6}
    assert decode.worker.get_block_ids_with_load_errors() == set()
    assert (decode.caches[LAYERS[1]].block(5, decode.dimension) == 61).all()
    last = prefill.worker._names.key(0, LAYERS[-1], request.block_hashes[1])
    first.delete([last])
    assert decode.scheduler.get_num_new_matched_tokens(request, 0) == (4, False)  # a hole ends the prefix


@pytest.fixture
def single(workers, first):
    made = []

    def make(role="kv_both", **extra):
        made.append(Instance(workers.addresses[0], role, 0, "blocks first", first.generate_key(), **extra))
        return made[-1]

    with installed(vllm_modules()):
        yield make
        for each in made:
            each.close()


def test_prefill_in_pieces_and_after_preemption(single):
    instance = single()
    request = request_of("r3", 16, b"y")
    _, meta = instance.schedule(request, [0, 1], 6)
    assert meta.saves[0].block_ids == [0]
    cached = SimpleNamespace(req_ids=["r3"], new_block_ids=[([2],)], num_computed_tokens=[6], resumed_req_ids=set())
    meta = instance.meta(scheduled={"r3": 6}, cached=cached)
    assert meta.saves[0].block_ids == [1, 2] and meta.saves[0].block_hashes == request.block_hashes[1:3]
    cached = SimpleNamespace(
        req_ids=["r3"], new_block_ids=[([7, 6, 5, 4],)], num_computed_tokens=[12], resumed_req_ids={"r3"}
    )
    meta = instance.meta(scheduled={"r3": 5}, cached=cached)
    assert meta.saves[0].block_ids == [4]  # the prompt's last block; what is generated is not saved
    cached = SimpleNamespace(req_ids=["r3"], new_block_ids=[None], num_computed_tokens=[17], resumed_req_ids=set())
    assert instance.meta(scheduled={"r3": 1}, cached=cached).saves == []
    assert instance.scheduler.request_finished(request, [7, 6, 5, 4]) == (False, None)
    assert instance.meta(finished=["r3"]).saves == []


def test_at_least_one_token_is_left_to_compute(single):
    instance = single()
    request = request_of("r4", 8, b"z")
    _, meta = instance.schedule(request, [0, 1], 8)
    instance.step(meta, instance.fill([0, 1], seed=1))
    again = request_of("r5", 8, b"z")
    assert instance.scheduler.get_num_new_matched_tokens(again, 0) == (4, False)
    assert instance.scheduler.get_num_new_matched_tokens(request_of("r6", 3), 0) == (0, False)
    assert instance.scheduler.get_num_new_matched_tokens(again, 4) == (0, False)


def test_asynchronous_loads_are_told_when_they_have_ended(single):
    instance = single(load_async=True)
    request = request_of("r7", 9, b"q")
    (_, is_async), meta = instance.schedule(request, [0, 1, 2], 9)
    assert not is_async  # nothing to load yet
    instance.step(meta, instance.fill([0, 1], seed=30))
    (tokens, is_async), meta = instance.schedule(request_of("r8", 9, b"q"), [5, 6, 7], 1)
    assert (tokens, is_async) == (8, True) and meta.loads[0].is_async
    instance.step(meta)
    loaded = set()
    until("the load has ended", lambda: loaded.update(instance.worker.get_finished(set())[1] or ()) or loaded)
    assert loaded == {"r8"} and instance.worker.get_finished(set()) == (None, None)
    assert (instance.caches[LAYERS[2]].block(6, 0) == 51).all()


def test_requests_that_begin_alike_in_one_step(single):
    """Without vLLM's prefix caching, two requests of a step have the same hashes in different blocks."""
    instance = single()
    for step in ("save", "load"):
        new, scheduled = [], {}
        for name, ids in ((f"{step}1", [0, 1, 2]), (f"{step}2", [5, 6, 7])):
            request = request_of(name, 9, b"s")
            tokens, _ = instance.scheduler.get_num_new_matched_tokens(request, 0)
            assert tokens == (0 if step == "save" else 8)
            blocks = SimpleNamespace(get_block_ids=lambda ids=ids: (ids,))
            instance.scheduler.update_state_after_alloc(request, blocks, tokens)
            new.append(SimpleNamespace(req_id=name, block_ids=(ids,), num_computed_tokens=tokens))
            scheduled[name] = 9 - tokens
        for cache in instance.caches.values():
            cache.array[...] = 0
        meta = instance.meta(new, scheduled)
        if step == "save":
            for ids in ([0, 1], [5, 6]):
                for name in LAYERS:
                    instance.fill(ids, seed=70)(name)
        instance.step(meta)
        assert instance.worker.get_block_ids_with_load_errors() == set()
    for number, name in enumerate(LAYERS):
        for block in (0, 1, 5, 6):
            assert (instance.caches[name].block(block, 0) == 70 + number * 10 + block % 5).all()


def test_calls_have_a_limit(single, monkeypatch):
    """Blocks of a layer, and keys of a lookup, are asked for in several calls."""
    vllm_connector = import_module("hbmesh.integrations.vllm_connector")
    instance = single()
    monkeypatch.setattr(vllm_connector, "_BLOCKS_PER_CALL", 2)
    monkeypatch.setattr(vllm_connector, "_KEYS_PER_LOOKUP", 3)
    request = request_of("rl", 29, b"l")
    _, meta = instance.schedule(request, list(range(8)), 29)
    instance.step(meta, instance.fill(list(range(7)), seed=40))
    asked = []
    exist = instance.scheduler._client.exist
    monkeypatch.setattr(instance.scheduler._client, "exist", lambda keys: asked.append(len(keys)) or exist(keys))
    for cache in instance.caches.values():
        cache.array[...] = 0
    (tokens, _), meta = instance.schedule(request_of("rm", 29, b"l"), list(range(8)), 1)
    assert tokens == 28 and asked == [2] * 7
    instance.step(meta)
    assert instance.worker.get_block_ids_with_load_errors() == set()
    assert (instance.caches[LAYERS[1]].block(6, 0) == 56).all()


def test_a_layer_that_the_model_passes_over(single):
    """What is loaded for it is there, or given up, before the step ends."""
    instance = single()
    _, meta = instance.schedule(request_of("rp", 5, b"p"), [0, 1], 5)
    instance.step(meta, instance.fill([0], seed=20))
    _, meta = instance.schedule(request_of("rq", 5, b"p"), [3, 4], 1)
    instance.worker.bind_connector_metadata(meta)
    instance.worker.start_load_kv(SimpleNamespace())
    instance.worker.wait_for_save()
    assert all((cache.block(3, 0) == 20 + 10 * n).all() for n, cache in enumerate(instance.caches.values()))


def test_rounds():
    assert rounds_of(list("abacab"), [0, 1, 2, 3, 4, 5], 2) == [
        (["a", "b"], [0, 1]),
        (["a", "c"], [2, 3]),
        (["a", "b"], [4, 5]),
    ]
    assert rounds_of([], [], 2) == []


def test_saves_wait_for_the_device(single, monkeypatch):
    """A layer is set only after the event of the device's stream, recorded when it was handed over."""
    vllm_connector = import_module("hbmesh.integrations.vllm_connector")
    order = []
    monkeypatch.setattr(
        vllm_connector, "_record", lambda layer: SimpleNamespace(synchronize=lambda: order.append("computed"))
    )
    instance = single()
    instance_set = instance.worker._client.mset_d2h_from_multi_buffers
    monkeypatch.setattr(
        instance.worker._client,
        "mset_d2h_from_multi_buffers",
        lambda *a, **k: order.append("set") or instance_set(*a, **k),
    )
    _, meta = instance.schedule(request_of("r9", 5, b"e"), [0, 1], 5)
    instance.step(meta, instance.fill([0], seed=1))
    assert order == ["computed", "set"] * len(LAYERS)


def test_the_event_is_that_of_the_tensors_kind_of_device(monkeypatch):
    recorded = []
    event = SimpleNamespace(record=lambda: recorded.append("npu"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(npu=SimpleNamespace(Event=lambda: event)))
    with installed(vllm_modules()):
        record = import_module("hbmesh.integrations.vllm_connector")._record
        assert record(SimpleNamespace(device=SimpleNamespace(type="npu"))) is event and recorded == ["npu"]
        assert record(SimpleNamespace(device=SimpleNamespace(type="cpu"))) is None


def test_a_store_that_is_gone_is_a_miss(single, caplog):
    instance = single()
    request = request_of("ra", 9, b"g")
    _, meta = instance.schedule(request, [0, 1, 2], 9)
    instance.worker._client.close(), instance.scheduler._client.close()
    instance.step(meta, instance.fill([0, 1], seed=1))
    assert "blocks were not saved: SHUTTING_DOWN" in caplog.text
    assert instance.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
    assert "lookup failed" in caplog.text


def test_arguments_are_those_of_vllm(single):
    single()
    from hbmesh.integrations.vllm import HbmeshConnector

    assert same_arguments(HbmeshConnector, KVConnectorBase_V1) == []
    assert HbmeshConnector.requires_piecewise_for_cudagraph({}) is True
    config = SimpleNamespace(kv_transfer_config=None)
    with pytest.raises(ValueError, match="2 KV cache groups"):
        HbmeshConnector(config, KVConnectorRole.WORKER, SimpleNamespace(kv_cache_groups=[1, 2]))


def test_engines_are_imported_when_they_are_needed():
    import hbmesh.integrations.lmcache
    import hbmesh.integrations.vllm

    for module, name, error in (
        (hbmesh.integrations.vllm, "HbmeshConnector", ImportError),
        (hbmesh.integrations.lmcache, "HbmeshConnectorAdapter", ImportError),
        (hbmesh.integrations.vllm, "Nothing", AttributeError),
    ):
        with pytest.raises(error):
            getattr(module, name)


def test_block_places():
    cache = Cache(0, (2, 3, 4))
    pieces = pieces_of(cache, 3)
    assert [piece.start - cache.data_ptr() for piece in pieces] == [0, 24] and pieces[0].size == 8
    addresses, sizes = place_blocks(pieces, [2, 0])
    assert [[a - cache.data_ptr() for a in row] for row in addresses] == [[16, 40], [0, 24]] and sizes == [[8, 8]] * 2
    assert len(pieces_of((cache, cache), 3)) == 4
    with pytest.raises(ValueError, match="no dimension of 7"):
        pieces_of(cache, 7)
    with pytest.raises(ValueError, match="not in one piece"):
        pieces_of(Cache(0, (4, 3), (1, 0)), 3)


def test_keys_have_allowed_characters(first):
    names = KeyNames("org/model.v1", "torch.float16", ranks=8)
    keys = [names.key(7, LAYERS[0], each) for each in (b"\xff" * 32, -5, SimpleNamespace(hash_value=77))]
    assert len(set(keys)) == 3 and max(map(len, keys)) < 200
    assert first.exist(keys).presences == ["MISS"] * 3
    assert hash_text(b"\x01\x02") == "0102" and keys[0] != names.key(6, LAYERS[0], b"\xff" * 32)
