"""Goal: a value that callers give is taken for what it is, or refused with its name and a remedy before anything is
done. Method: a table of numbers and of things that have bytes, through the calls that take them; what was set is got
back and compared. Tensors are stand-ins with torch's interface over ordinary memory.
"""

import ctypes
import gc
import weakref
from types import SimpleNamespace

import ml_dtypes
import numpy
import pytest
from conftest import LONG

import hbmesh
from hbmesh import Client, DeviceBlobList, SimDevice
from hbmesh._values import host_view, host_views, whole
from hbmesh.blobs import blob_of, bytes_of, device_of
from hbmesh.host import HostObjects
from hbmesh.integrations.kv_blocks import pieces_of
from hbmesh.sim.acl import make_module
from yr.datasystem.ds_tensor_client import CopyRange, DsTensorClient
from yr.datasystem.hetero_client import Blob, HeteroClient
from yr.datasystem.hetero_client import DeviceBlobList as DsBlobList
from yr.datasystem.kv_client import KVClient


class Tensor:
    """A torch tensor of this data type's width, on the CPU unless it says otherwise."""

    def __init__(self, data=b"\x80\x3f\x00\x40", width=2, kind="cpu", contiguous=True, shape=None, **lazy):
        self.memory = ctypes.create_string_buffer(bytes(data), len(data)) if data else None
        self.width, self.size = width, len(data)
        self.shape = (len(data) // width,) if shape is None else shape
        self.device = SimpleNamespace(type=kind, index=None if kind == "cpu" else 0)
        self.contiguous = contiguous
        for name, value in lazy.items():
            setattr(self, name, lambda value=value: value)

    def data_ptr(self):
        return ctypes.addressof(self.memory) if self.memory else 0

    def element_size(self):
        return self.width

    def numel(self):
        return self.size // self.width

    def is_contiguous(self):
        return self.contiguous


class Interface:
    """What has an ``__array_interface__`` and nothing else."""

    def __init__(self, array, strides=None):
        self.array = array
        self.__array_interface__ = dict(array.__array_interface__, strides=strides)


def numbers(dtype, shape=(2, 3)):
    return numpy.arange(6, dtype="float32").reshape(shape).astype(dtype)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"bytes", b"bytes"),
        (bytearray(b"bytes"), b"bytes"),
        (memoryview(b"123456").cast("B", (2, 3)), b"123456"),
        (memoryview(b"12345678").cast("d"), b"12345678"),
        ((ctypes.c_ubyte * 3)(1, 2, 3), b"\1\2\3"),
        (numbers("float32"), numbers("float32").tobytes()),
        (numbers(ml_dtypes.bfloat16), b"\0\0\x80\x3f\0\x40\x40\x40\x80\x40\xa0\x40"),
        (numbers(ml_dtypes.float8_e4m3fn), b"\0\x38\x40\x44\x48\x4a"),
        (numbers(ml_dtypes.float8_e5m2)[1], numbers(ml_dtypes.float8_e5m2).tobytes()[3:]),
        (numpy.float64(1.5), numpy.float64(1.5).tobytes()),
        (numpy.array(7, dtype="int16"), b"\7\0"),
        (numpy.array(1, dtype=ml_dtypes.bfloat16), b"\x80\x3f"),
        (ml_dtypes.bfloat16(1), b"\x80\x3f"),
        (numpy.array([(1, 2)], dtype=[("Offset", "u1"), ("O", "u1")]), b"\1\2"),
        (numpy.frombuffer(b"readonly", dtype="u1"), b"readonly"),
        (numpy.array(["ab", "c"]), "abc\0".encode("utf-32-le")),
        (numpy.array([1, 2], dtype="M8[ns]"), b"\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0"),
        (Interface(numpy.array(["ab", "c"])), "abc\0".encode("utf-32-le")),
        (Interface(numbers("int32")), numbers("int32").tobytes()),
        (Tensor(), b"\x80\x3f\x00\x40"),  # bfloat16
        (Tensor(b"\x38\x40", width=1), b"\x38\x40"),  # float8
        (Tensor(is_conj=False, is_neg=False), b"\x80\x3f\x00\x40"),
    ],
)
def test_bytes_in_ordinary_memory(first, second, key, value, expected):
    assert HostObjects(first).put([key], [[value]])
    result, found = HostObjects(second).get([key], timeout_ms=LONG * 1000)
    assert result and found == [[expected]]
    assert host_view(value, "it").nbytes == len(expected)


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        ([b"x", b""], ValueError, "piece 2 of key 'k' has no bytes: leave it out"),
        ([], ValueError, "the value of key 'k' has no pieces"),
        ([memoryview(numpy.empty((4, 0), dtype="u1"))], ValueError, "piece 1 of key 'k' has no bytes"),
        ([numpy.empty((0, 3))], ValueError, "piece 1 of key 'k' has no bytes"),
        ([Tensor(b"", shape=(0, 3))], ValueError, "piece 1 of key 'k' has no bytes"),
        (["text"], TypeError, "piece 1 of key 'k' is a str, which has no bytes: encode it"),
        ([7], TypeError, "piece 1 of key 'k' is a int, which has no bytes: give bytes"),
        (b"x", TypeError, "the value of key 'k' is one bytes: give a list of its pieces"),
        (Tensor(), TypeError, "the value of key 'k' is one Tensor: give a list"),
        ([numbers("float32").T], TypeError, "piece 1 of key 'k' is not contiguous.*ascontiguousarray"),
        ([memoryview(b"123456")[::2]], TypeError, "piece 1 of key 'k' is not contiguous.*give a copy"),
        ([numpy.array([b"a", None], dtype=object)], TypeError, "piece 1 of key 'k' is an array of Python objects"),
        ([numpy.empty(2, dtype=[("a", "O"), ("b", "u1")])], TypeError, "is an array of Python objects"),
        ([Tensor(kind="npu")], TypeError, r"piece 1 of key 'k' is on npu.*tensor\.cpu\(\)"),
        ([Tensor(contiguous=False)], TypeError, r"piece 1 of key 'k' is not contiguous.*tensor\.contiguous\(\)"),
        ([Tensor(is_conj=True)], TypeError, r"piece 1 of key 'k' is a lazy view.*tensor\.resolve_conj\(\)"),
        ([Tensor(is_conj=False, is_neg=True)], TypeError, r"piece 1 of key 'k' is a lazy view.*resolve_neg\(\)"),
    ],
)
def test_what_has_no_bytes_in_ordinary_memory(first, value, error, says):
    with pytest.raises(error, match=says):
        HostObjects(first).put(["a", "k"], [[b"good"], value])
    assert first.exist(["a", "k"]).presences == ["MISS", "MISS"]


@pytest.mark.parametrize(
    ("piece", "error", "says"),
    [
        (numpy.empty((0, 3)), ValueError, r"the tensor of shape \(0, 3\) has no bytes: leave it out"),
        (Tensor(b"", shape=(0, 3)), ValueError, r"the tensor of shape \(0, 3\) has no bytes: leave it out"),
        (Interface(numbers("int32"), strides=(4, 8)), TypeError, "not contiguous"),
        (numbers("float32").T, TypeError, "not contiguous"),
        (Tensor(is_conj=True), TypeError, r"tensor\.resolve_conj\(\)"),
        (7, TypeError, "int is no tensor"),
    ],
)
def test_what_is_no_piece_of_device_memory(piece, error, says):
    with pytest.raises(error, match=says):
        DeviceBlobList.of(0, piece)


def test_views_keep_what_they_are_of():
    """Pieces that nobody else holds: of a generator, a map."""
    alive = []

    def fresh(make):
        for number in range(3):
            piece = make(number)
            alive.append(weakref.ref(piece))
            yield piece
            del piece
            gc.collect()

    for make in (
        lambda number: numpy.full(1 << 16, number, dtype="u1"),
        lambda number: Interface(numpy.full(1 << 16, number, dtype="u1")),
        lambda number: Tensor(bytes([number]) * (1 << 16), width=1),
    ):
        alive.clear()
        views = host_views("k", fresh(make))
        gc.collect()
        assert all(each() is not None for each in alive)
        assert [bytes(view) for view in views] == [bytes([number]) * (1 << 16) for number in range(3)]
        part = views[2][5:7]
        del views
        gc.collect()
        assert [each() is not None for each in alive] == [False, False, True] and part == b"\2\2"
        del part
        gc.collect()
        assert alive[2]() is None


def test_elements_of_text_and_of_dates():
    text, dates = numpy.array([["ab", "c"]] * 2), numpy.array([[1, 2]] * 2, dtype="M8[ns]")
    for array in (text, dates, numpy.zeros((2, 2), "m8[D]")):
        assert host_view(array, "it").nbytes == array.nbytes == bytes_of(Interface(array))
        assert blob_of(Interface(array)) == blob_of(array)
        spread = numpy.concatenate([array, array], axis=1)[:, :2]
        for refuse in (lambda spread=spread: host_view(spread, "it"), lambda spread=spread: blob_of(spread)):
            with pytest.raises(TypeError, match="not contiguous"):
                refuse()
    bad = Interface(numbers("i4"))
    bad.__array_interface__["typestr"] = "<?"
    with pytest.raises(TypeError, match="elements of type '<[?]' have no number of bytes"):
        host_view(bad, "it")


def test_tensors_of_every_data_type_and_of_no_dimension():
    arrays = [numbers(each) for each in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn)]
    for array in (*arrays, numpy.array(7), Interface(numbers("i4"))):
        interface = array.__array_interface__
        size = array.nbytes if hasattr(array, "nbytes") else 24
        assert blob_of(array) == (interface["data"][0], size)
    scalar = Tensor(b"\1\2\3\4", width=4, shape=())
    assert blob_of(scalar) == (scalar.data_ptr(), 4)


def test_device_arrays(first, second, key):
    array = SimDevice(0).array((2, 3), ml_dtypes.bfloat16)
    array[:] = numbers(ml_dtypes.bfloat16)
    assert first.mset_d2h([key], [DeviceBlobList.of(0, array)]) and array.dtype == ml_dtypes.bfloat16
    target = SimDevice(1).array(6, ml_dtypes.bfloat16)
    assert second.mget_h2d([key], [DeviceBlobList.of(1, target)], timeout_ms=LONG * 1000)
    assert target.tobytes() == numbers(ml_dtypes.bfloat16).tobytes()
    assert SimDevice(0).array(numpy.int64(4)).shape == (4,) and SimDevice(0).array(()).shape == ()
    for shape, error, says in (
        ((-1, 3), ValueError, r"shape is \(-1, 3\), a length in it is -1: it must be from 0"),
        ((0, 3), ValueError, r"an array of shape \(0, 3\) has no bytes: device memory is at least one byte"),
        ((2.5,), TypeError, "must be a whole number, not float"),
    ):
        with pytest.raises(error, match=says):
            SimDevice(0).array(shape)
    with pytest.raises(TypeError, match="has Python objects"):
        SimDevice(0).array(3, object)


def test_copies_take_every_buffer():
    pointer = SimDevice(0).allocate(64)
    SimDevice.copy_in(numpy.uint64(pointer), numbers(ml_dtypes.bfloat16))
    target = numpy.empty((2, 3), dtype=ml_dtypes.bfloat16)
    SimDevice.copy_into(target, numpy.uint64(pointer))
    assert target.tobytes() == numbers(ml_dtypes.bfloat16).tobytes()
    SimDevice.copy_in(pointer, bytearray()), SimDevice.copy_into(bytearray(), pointer)  # nothing to do
    assert SimDevice.copy_out(pointer, 0) == b""
    for readonly in (b"bytes", numpy.frombuffer(b"bytes", dtype="u1")):
        with pytest.raises(TypeError, match="can't be written to: give a bytearray"):
            SimDevice.copy_into(readonly, pointer)
    SimDevice.free(numpy.uint64(pointer))


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (7, 7),
        (numpy.int64(7), 7),
        (numpy.uint8(7), 7),
        (numpy.array(7), 7),
        (True, None),
        (numpy.bool_(True), None),
        (7.0, None),
        (numpy.float32(7), None),
        ("7", None),
        (None, None),
        (numpy.array([7]), None),
    ],
)
def test_whole_numbers(value, number):
    assert whole(value) == number and type(whole(value)) in (int, type(None))


def test_numbers_of_numpy_are_numbers(workers, key):
    """Device, port, timeouts, pointers, sizes, layers: engines get them from arrays."""
    host, port = workers.place(0)
    n = numpy.int64
    with Client(host, n(port), connect_timeout_ms=n(9000), request_timeout_ms=numpy.uint32(9000)) as client:
        assert client.address == workers.addresses[0]
        device = SimDevice(n(0))
        pointer = device.allocate(n(64))
        blobs = DeviceBlobList(n(0), [hbmesh.Blob(n(pointer), n(64))])
        target = DeviceBlobList(n(1), [hbmesh.Blob(n(SimDevice(1).allocate(64)), n(64))])
        assert client.mset_d2h([key], [blobs], ttl_seconds=numpy.float32(600))
        assert client.mget_h2d([key], [target], timeout_ms=n(1000))
        assert client.mget_h2d_async([key], [target], timeout_ms=n(1000)).get(n(1000))
        assert client.mget_h2d_from_multi_buffers(
            [key], [numpy.array([target.blobs[0].pointer])], [numpy.array([64])], device_index=n(1), timeout_ms=n(9)
        )
        client.pre_register_device_memory(numpy.array([pointer]), numpy.array([64]))
        ticket = client.reserve_layers([target], ttl_seconds=n(600))
        assert client.push(ticket.text, n(0), blobs)
        ticket.layer(n(0), n(1000))
        assert device_of(SimpleNamespace(device=SimpleNamespace(index=n(3)))) == 3
        for pointer in (blobs.blobs[0].pointer, target.blobs[0].pointer):
            SimDevice.free(pointer)
    for bad in (numpy.bool_(True), numpy.float64(1.0)):
        with pytest.raises(TypeError, match="port must be a whole number"):
            Client(host, bad)


def test_numbers_of_numpy_in_the_compatible_module(workers, key):
    n = numpy.int64
    host, port = workers.place(0)
    client, pointer = HeteroClient(host, n(port), connect_timeout_ms=n(9000)), SimDevice(0).allocate(64)
    client.init()
    client.mset_d2h([key], [DsBlobList(n(0), [Blob(n(pointer), n(64))])])
    assert client.mget_h2d([key], [DsBlobList(n(0), [Blob(n(pointer), n(64))])], n(1000)) == []
    tensors = DsTensorClient(host, port, n(0))
    tensors.init()
    blocks = SimDevice(0).array((4, 16))
    block_key = f"{key}-block"
    assert tensors.mset_page_attn_blockwise_d2h([block_key], [blocks], [n(3)]).get(n(LONG * 1000)) == []
    assert tensors.delete([block_key]) == []
    for layers, says in (
        ([SimDevice(0).array(())], "layer tensor number 1 has no dimensions"),
        ([blocks, numpy.empty((0, 16))], r"the tensor of shape \(0, 16\) has no bytes"),
    ):
        with pytest.raises(ValueError, match=says):
            tensors.mset_page_attn_blockwise_d2h([block_key], layers, [0])
    for each in (client, tensors):
        each.close()
    SimDevice.free(pointer)


def test_values_of_no_bytes_in_the_compatible_module(workers):
    client = KVClient(*workers.place(0))
    client.init()
    for empty in (b"", "", memoryview(numpy.empty((4, 0), dtype="u1"))):
        with pytest.raises(RuntimeError, match=r"code: \[2\], msg: \[the value of key 'k' is empty"):
            client.set("k", empty)
    with pytest.raises(TypeError, match="invalid type, valid type: .memoryview, bytes, bytearray, str."):
        client.set("k", numbers("float32"))
    client.close()


def test_ranges_of_numbers_of_numpy_do_not_wrap(workers):
    tensors = DsTensorClient(*workers.place(0), 0)
    target, n = SimDevice(0).array(250), numpy.uint8
    with pytest.raises(ValueError, match="does not fit into a tensor of"):
        tensors.dev_mget_into_tensor(["k"], target, [CopyRange(n(0), n(200), n(100))])
    with pytest.raises(TypeError, match="int is no tensor"):
        tensors.mset_page_attn_blockwise_d2h(["k"], [7], [0])


def test_the_simulated_acl_takes_numbers_of_numpy():
    acl, n = make_module(4), numpy.int64
    assert acl.rt.set_device(n(1)) == 0
    pointer, _ = acl.rt.malloc(n(16), 0)
    value = numbers(ml_dtypes.bfloat16)
    size, out = n(value.nbytes), numpy.empty_like(value)
    assert acl.rt.memcpy(n(pointer), size, acl.util.numpy_to_ptr(value), size, n(1)) == 0
    assert acl.rt.memcpy(acl.util.numpy_to_ptr(out), size, n(pointer), size, n(2)) == 0
    assert out.tobytes() == value.tobytes() and acl.rt.free(n(pointer)) == 0


def test_a_cache_of_no_blocks_is_refused():
    cache = SimpleNamespace(
        shape=(0, 16), stride=lambda: (16, 1), element_size=lambda: 2, data_ptr=lambda: 0, numel=lambda: 0
    )
    with pytest.raises(ValueError, match=r"a KV cache of shape \[0, 16\] has no bytes"):
        pieces_of(cache, 0)
