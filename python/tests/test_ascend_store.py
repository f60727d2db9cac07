"""Goal: vllm-ascend's store backend `yuanrong` works on hbmesh as it is. Method: the calls that it makes, in its order
and with its arguments, on two ranks: settings from YR_CONFIG_PATH, device by acl.rt.set_device, keys and per-layer
buffers as it builds them, its ways to read the answers.
"""

import json
import os
import sys

import pytest

from hbmesh import sim
from yr.datasystem.hetero_client import HeteroClient
from yr.datasystem.kv_client import SetParam
from yr.datasystem.object_client import WriteMode

numpy = pytest.importorskip("numpy")


class Rank:
    """What a rank's backend does with the store."""

    def __init__(self, device):
        with open(os.environ["YR_CONFIG_PATH"], encoding="utf-8") as file:
            settings = json.load(file)
        host, port = settings["worker_addr"].rsplit(":", 1)
        self.param = SetParam()
        self.param.write_mode = WriteMode.NONE_L2_CACHE_EVICT
        self.store = HeteroClient(
            host,
            int(port),
            connect_timeout_ms=settings["connect_timeout_ms"],
            req_timeout_ms=settings["request_timeout_ms"],
            enable_remote_h2d=bool(int(settings["enable_remote_h2d"])),
        )
        self.store.init()
        self.device, self.wait_ms = device, settings["get_sub_timeout_ms"]

    def register(self, pointers, lengths):
        self.store.pre_register_device_memory(pointers, lengths)

    def exists(self, keys):
        try:
            return self.store.batch_is_exist(keys)
        except Exception:
            return [0] * len(keys)

    def put(self, keys, addresses, sizes):
        sys.modules["acl"].rt.set_device(self.device)
        self.store.mset_d2h_from_multi_buffers(keys, addresses, sizes, self.param)

    def get(self, keys, addresses, sizes):
        sys.modules["acl"].rt.set_device(self.device)
        failed = set(self.store.mget_h2d_from_multi_buffers(keys, addresses, sizes, self.wait_ms))
        return [1 if key in failed else 0 for key in keys]


@pytest.fixture
def acl():
    yield sim.install(4)
    for name in ("acl", "acl.rt", "acl.util"):
        del sys.modules[name]


def test_prefill_puts_and_decode_gets(workers, acl, first, monkeypatch, tmp_path):
    from hbmesh import SimDevice

    layers, blocks = 4, 6
    ranks = []
    for index, device in ((0, 0), (1, 2)):
        path = tmp_path / f"yuanrong-{index}.json"
        settings = {"worker_addr": workers.addresses[index], "enable_remote_h2d": 1, "connect_timeout_ms": 9000}
        path.write_text(json.dumps({**settings, "request_timeout_ms": 0, "get_sub_timeout_ms": 0}))
        monkeypatch.setenv("YR_CONFIG_PATH", str(path))
        ranks.append(Rank(device))
    caches = []
    for rank in ranks:
        caches.append([SimDevice(rank.device).array((blocks, 64), "uint8") for _ in range(layers)])
        rank.register([cache.ctypes.data for cache in caches[-1]], [cache.nbytes for cache in caches[-1]])
    for number, cache in enumerate(caches[0]):
        cache[...] = numpy.arange(blocks)[:, None] + number * 16
    prefix = first.generate_key()
    keys = [f"{prefix}@pcp0@dcp0@head_or_tp_rank:0@pp_rank:0@group:0@cache_role:kv@{block:064x}" for block in range(3)]

    def buffers(of, ids):
        addresses = [[cache[block].ctypes.data for cache in caches[of]] for block in ids]
        return addresses, [[64] * layers for _ in ids]

    assert ranks[1].exists(keys) == [0, 0, 0]
    ranks[0].put(keys, *buffers(0, [0, 1, 2]))
    assert ranks[1].exists([*keys, "not-there"]) == [1, 1, 1, 0]
    assert ranks[1].get([*keys, "not-there"], *buffers(1, [5, 4, 3, 0])) == [0, 0, 0, 1]
    for number, cache in enumerate(caches[1]):
        assert [cache[block].tolist() for block in (5, 4, 3)] == [[value + number * 16] * 64 for value in range(3)]
    assert ranks[0].store.delete(keys) == []
    for rank in ranks:
        rank.store.close()
    assert ranks[1].exists(keys) == [0, 0, 0]  # a store that is gone: an exception, which the backend makes a miss
