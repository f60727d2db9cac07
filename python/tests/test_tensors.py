"""Goal: DsTensorClient takes tensors of any maker: torch's interface, and numpy arrays over simulated device memory.
Method: numpy arrays, and a stand-in that has what torch tensors have; two workers.
"""

import pytest
from conftest import LONG

from hbmesh import SimDevice
from yr.datasystem import CopyRange, DsTensorClient

numpy = pytest.importorskip("numpy")


class Device:
    def __init__(self, kind, index=0):
        self.type, self.index = kind, index


class Tensor:
    """What DsTensorClient needs of a torch tensor, over a numpy array."""

    def __init__(self, array, kind="npu"):
        self.array, self.device, self.shape = array, Device(kind), array.shape

    def data_ptr(self):
        return self.array.ctypes.data if self.array.size else 0

    def element_size(self):
        return self.array.itemsize

    def is_contiguous(self):
        return self.array.flags.c_contiguous


@pytest.fixture(scope="module")
def pair(workers):
    first, second = DsTensorClient(*workers.place(0), 0), DsTensorClient(*workers.place(1), 1, enable_remote_h2d=True)
    first.init(), second.init()
    yield first, second
    first.close(), second.close()


def filled(device, shape, dtype="float16"):
    array = SimDevice(device).array(shape, dtype)
    array[...] = numpy.arange(array.size).reshape(shape)
    return array


def empty(device, shape, dtype="float16"):
    array = SimDevice(device).array(shape, dtype)
    array[...] = 0
    return array


@pytest.mark.parametrize("wrap", [lambda array: array, Tensor], ids=["numpy", "torch"])
def test_host_objects(pair, key, wrap):
    first, second = pair
    source, target = filled(0, (4, 5)), empty(1, (4, 5))
    assert first.mset_d2h([key], [wrap(source)]) is None
    assert second.mget_h2d([key], [wrap(target)], 1000) == [] and (target == source).all()
    assert second.exist([key]) == [True] and second.delete([key]) == []
    assert first.async_mset_d2h([key], [wrap(source)]).get() == []
    target[...] = 0
    assert second.async_mget_h2d([key], [wrap(target)]).get() == [] and (target == source).all()


def test_device_to_device(pair, key):
    first, second = pair
    source, target = filled(0, (3, 3)), empty(1, (3, 3))
    (received,), (sent,) = second.dev_recv([key], [Tensor(target)]), first.dev_send([key], [Tensor(source)])
    assert received.get(LONG * 1000) == [] == sent.get(LONG * 1000) and (target == source).all()
    assert first.dev_mset([key], [source]) == []
    target[...] = 0
    assert second.dev_mget([key], [target], 1000) == [] and (target == source).all()
    assert second.dev_local_delete([key]) == [] and first.dev_delete([key]) == []
    assert first.async_dev_delete([key]).get() == []


def test_parts_of_objects_into_one_tensor(pair, first):
    here, there = pair
    keys = [first.generate_key("part") for _ in range(2)]
    sources = [filled(0, (8,), "uint8"), empty(0, (8,), "uint8")]
    sources[1][...] = numpy.arange(8) + 100
    here.dev_mset(keys, sources)
    target = empty(1, (2, 5), "uint8")
    ranges = [CopyRange(src_offset=2, dst_offset=0, length=3), CopyRange(src_offset=0, dst_offset=5, length=5)]
    assert there.dev_mget_into_tensor(keys, target, ranges) == []
    assert target.tolist() == [[2, 3, 4, 0, 0], [100, 101, 102, 103, 104]]
    with pytest.raises(ValueError, match="2 keys, but 1"):
        there.dev_mget_into_tensor(keys, target, ranges[:1])
    with pytest.raises(ValueError, match="does not fit"):
        there.dev_mget_into_tensor(keys[:1], target, [CopyRange(0, 8, 3)])
    with pytest.raises(RuntimeError, match=r"code: \[2\].*8 bytes, asked for 3 from 6"):
        there.dev_mget_into_tensor(keys[:1], target, [CopyRange(6, 0, 3)])
    with pytest.raises(TypeError):
        there.dev_mget_into_tensor(keys[:1], target, [(0, 0, 1)])
    here.dev_delete(keys)


def test_blocks_of_all_layers(pair, first):
    here, there = pair
    keys = [first.generate_key("block") for _ in range(2)]
    sources = [filled(0, (4, 2, 3)) for _ in range(3)]  # blocks, tokens, width
    targets = [empty(1, (4, 2, 3)) for _ in range(3)]
    assert here.mset_page_attn_blockwise_d2h(keys, sources, [3, 1]).get() == []
    assert there.mget_page_attn_blockwise_h2d(keys, targets, [0, 2], 1000).get() == []
    for source, target in zip(sources, targets):
        assert (target[0] == source[3]).all() and (target[2] == source[1]).all() and not target[1].any()
    here.delete(keys)
    received = there.get_page_attn_layerwise_d2d(keys, targets, [1, 3])
    sent = here.put_page_attn_layerwise_d2d(keys, sources, [0, 2])
    assert [future.get(LONG * 1000) for future in sent + received] == [[]] * 4
    assert all((target[3] == source[2]).all() for source, target in zip(sources, targets))
    with pytest.raises(ValueError, match="block 4"):
        here.mset_page_attn_blockwise_d2h(keys[:1], sources, [4])
    with pytest.raises(ValueError, match="empty"):
        here.mset_page_attn_blockwise_d2h(keys[:1], sources, [])


def test_what_is_no_tensor(pair):
    client, _ = pair
    array = filled(0, (4, 4))
    for wrong, error, says in (
        (array.T, TypeError, "not contiguous"),
        (Tensor(array[:, :2]), TypeError, "not contiguous"),
        ("text", TypeError, "no tensor"),
        (Tensor(array, "cpu"), ValueError, "cpu tensor"),
        (Tensor(numpy.empty(0)), ValueError, r"the tensor of shape \(0,\) has no bytes: leave it out"),
        (numpy.zeros(4), RuntimeError, r"code: \[2\]"),  # ordinary memory
    ):
        with pytest.raises(error, match=says):
            client.mset_d2h(["a"], [wrong])
    with pytest.raises(TypeError):
        client.mset_d2h(["a"], array)
