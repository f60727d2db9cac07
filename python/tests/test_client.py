"""Goal: the blocking client keeps what docs/API.md promises, in Python's manner.
Method: two clients of two real workers; values, codes and messages are compared; a second thread shows what waits.
"""

import gc
import threading
import weakref

import pytest
from conftest import LONG, until

import hbmesh
import yr.datasystem
from hbmesh import Blob, Client, DeviceBlobList, HbmeshError, SimDevice, StatusCode


def test_set_here_get_there(first, second, memory, key):
    source, target = memory(0, [4096, 100, 70000], seed=3), memory(2, [4096, 100, 70000])
    result = first.mset_d2h([key], [source.list])
    assert result and result.existed == [False] and result.bytes == [74196] and result.codes == [0]
    got = second.mget_h2d([key], [target.list], timeout_ms=1000)
    assert got.raise_for_failures() is got and target.holds(3)
    assert got.paths[0].transport == "tcp" and got.paths[0].source == first.address and got.paths[0].bytes == 74196
    assert got.path == f"tcp from {first.address}" and not got.paths[0].fallback


def test_multi_buffers_are_the_same_objects(first, second, memory, key):
    source, target = memory(0, [4096, 100], seed=4), memory(1, [4096, 100])
    first.mset_d2h_from_multi_buffers([key], [source.pointers], [source.sizes], device_index=0, checksum=True)
    got = second.mget_h2d_from_multi_buffers([key], [target.pointers], [target.sizes], device_index=1, timeout_ms=9)
    assert got and target.holds(4)


def test_a_status_for_each_key(first, memory, key):
    source = memory(0, [64], seed=1)
    first.mset_d2h([key], [source.list]).raise_for_failures()
    target = memory(1, [64])
    got = first.mget_h2d([f"{key}-not", key], [target.list, target.list])
    assert not got and len(got) == 2 and got.failed_keys == [f"{key}-not"]
    assert [status.code for status in got] == [StatusCode.NOT_FOUND, StatusCode.OK]
    assert got[1].ok and got[1].message == "" and not got[0].ok and "set it first" in got[0].message
    assert [status.key for status in got.statuses] == [f"{key}-not", key]
    with pytest.raises(hbmesh.NotFoundError) as failure:
        got.raise_for_failures()
    assert failure.value.key == f"{key}-not" and failure.value.node == first.address
    assert failure.value.code == StatusCode.NOT_FOUND and isinstance(failure.value, RuntimeError)
    assert str(failure.value).startswith("NOT_FOUND: ")
    assert f"failed: ['{key}-not']" in repr(got)


def test_existence(first, second, memory, key):
    old, new, target = memory(0, [64], seed=1), memory(0, [64], seed=2), memory(1, [64])
    first.mset_d2h([key], [old.list]).raise_for_failures()
    assert second.mset_d2h([key], [new.list]).existed == [True]
    failed = second.mset_d2h([key], [new.list], existence="fail")
    assert failed[0].code == StatusCode.KEY_ALREADY_EXISTS
    with pytest.raises(hbmesh.KeyExistsError):
        failed.raise_for_failures()
    second.mget_h2d([key], [target.list]).raise_for_failures()
    assert target.holds(1)
    first.mset_d2h([key], [new.list], existence="replace").raise_for_failures()
    second.mget_h2d([key], [target.list]).raise_for_failures()
    assert target.holds(2)


def test_time_to_live(first, memory, key):
    source = memory(0, [64], seed=1)
    first.mset_d2h([key], [source.list], ttl_seconds=0.05).raise_for_failures()
    until("the object expired", lambda: first.exist([key]).presences == ["MISS"])


@pytest.mark.parametrize("pin", ["none", "soft", "hard"])
def test_pins(first, memory, key, pin):
    source = memory(0, [64], seed=1)
    first.mset_d2h([key], [source.list], pin=pin).raise_for_failures()
    until("its owner has heard of it", lambda: first.exist([key]).presences == ["HIT"])
    assert first.explain(key)["here"]["pin"] == pin


def test_questions_and_delete(first, second, memory, key):
    source = memory(0, [64, 32], seed=1)
    first.mset_d2h([key], [source.list]).raise_for_failures()
    there = second.exist([key, f"{key}-not"])
    assert there.presences == ["HIT", "MISS"] and not there and there.unknown() is None
    assert repr(there) == "<ExistResult of 2 keys: 1 HIT, 1 MISS>"
    metas = second.get_meta_info([f"{key}-not", key])
    assert metas.metas[0] is None and metas.metas[1].blob_sizes == [64, 32] and metas.metas[1].bytes == 96
    assert metas.metas[1].generation > 0
    assert first.explain(key)["key"] == key and first.explain(f"{key}-not")["key"] == f"{key}-not"
    assert second.delete([key]).existed == [True] and second.delete([key]).existed == [False]


def test_a_get_waits_for_each_key_on_its_own(first, second, memory, key):
    source, targets = memory(0, [64], seed=6), [memory(1, [64]), memory(1, [64])]
    future = second.mget_h2d_async([key, f"{key}-not"], [target.list for target in targets], timeout_ms=400)
    assert not future.done
    first.mset_d2h([key], [source.list]).raise_for_failures()
    got = future.get(LONG * 1000)
    assert got.codes == [StatusCode.OK, StatusCode.NOT_FOUND] and targets[0].holds(6)


def test_calls_release_the_interpreters_lock(first, second, memory, key):
    """While a get waits, this thread goes on: it makes the very set that the get waits for."""
    source, target = memory(0, [64], seed=8), memory(1, [64])
    answers = []
    waiting = threading.Thread(
        target=lambda: answers.append(second.mget_h2d([key], [target.list], timeout_ms=LONG * 1000))
    )
    waiting.start()
    first.mset_d2h([key], [source.list]).raise_for_failures()
    waiting.join(LONG)
    assert answers[0] and target.holds(8)


def test_many_threads_share_a_client(first, memory):
    faults = []

    def work(number):
        source, target = memory(number % 4, [512], seed=number), memory((number + 1) % 4, [512])
        for turn in range(25):
            name = f"thread-{number}-{turn}"
            try:
                first.mset_d2h([name], [source.list]).raise_for_failures()
                first.mget_h2d([name], [target.list]).raise_for_failures()
                assert target.holds(number)
                assert first.delete([name]).existed == [True]
            except Exception as fault:
                faults.append(fault)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert faults == []


def test_futures(first, second, memory, key):
    source, target = memory(0, [64], seed=2), memory(1, [64])
    get = second.mget_h2d_async([key], [target.list], timeout_ms=1_800_000)
    with pytest.raises(hbmesh.FutureTimeoutError):
        get.get(0)
    with pytest.raises(ValueError, match="timeout_ms"):
        get.get(1_800_001)
    get.cancel()
    with pytest.raises(hbmesh.CancelledError):
        get.get(LONG * 1000)
    assert get.done and get.key == key
    put = first.mset_d2h_async([key], [source.list], checksum=True)
    assert put.get().existed == [False] and put.get(0)
    assert second.mget_h2d_async([key], [target.list]).get() and target.holds(2)


def test_waiting_needs_no_descriptor(first, memory, monkeypatch):
    """A process that has none left can't be interrupted in a wait, and waits all the same."""

    def none_left():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(hbmesh._native, "eventfd", none_left)
    got = first.mget_h2d(["never"], [memory(1, [64]).list], timeout_ms=20)
    assert got[0].code == StatusCode.NOT_FOUND
    (future,) = first.dev_subscribe(["never"], [memory(1, [64]).list])
    with pytest.raises(hbmesh.FutureTimeoutError, match="waited 20 ms for key 'never', which goes on"):
        future.get(20)
    future.cancel()
    with pytest.raises(hbmesh.CancelledError):
        future.get(LONG * 1000)


def test_closing_while_threads_are_in_calls(workers, memory):
    """Each thread's call ends, with an answer or with SHUTTING_DOWN, and nothing else."""
    client = Client(*workers.place(0)).connect()
    faults, ended = [], []
    pairs = [(memory(0, [256], seed=number), memory(1, [256])) for number in range(6)]
    begun = threading.Barrier(len(pairs) + 1)

    def work(number):
        begun.wait(LONG)
        try:
            while True:
                source, target = pairs[number]
                client.mset_d2h([f"closing-{number}"], [source.list], existence="replace", ttl_seconds=5)
                client.mget_h2d([f"closing-{number}", "never"], [target.list] * 2, timeout_ms=5)
        except hbmesh.ShuttingDownError:
            ended.append(number)
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(pairs))]
    for thread in threads:
        thread.start()
    begun.wait(LONG)
    client.mget_h2d(["never"], [pairs[0][1].list], timeout_ms=20)
    client.close()
    for thread in threads:
        thread.join(LONG)
    assert faults == [] and sorted(ended) == list(range(len(pairs)))


def test_close_ends_what_is_under_way(workers, memory):
    client = Client(*workers.place(0)).connect()
    future = client.mget_h2d_async(["never"], [memory(1, [64]).list], timeout_ms=1_800_000)
    client.close()
    client.close()
    with pytest.raises(hbmesh.ShuttingDownError):
        future.get(0)
    with pytest.raises(hbmesh.ShuttingDownError):
        client.exist(["a"])


def test_not_connected_and_nobody_there(workers):
    with pytest.raises(hbmesh.NotReadyError, match=r"the client is not connected: call connect\(\) first") as failure:
        Client(*workers.place(0)).exist(["a"])
    assert "hbmesh_" not in str(failure.value)
    with pytest.raises(RuntimeError, match=r"code: \[8\], msg: \[the client is not connected: call init\(\) first"):
        yr.datasystem.HeteroClient(*workers.place(0)).exist(["a"])
    with pytest.raises(hbmesh.NoWorkerError) as failure:
        Client("127.0.0.1", 9).connect()
    assert failure.value.node == "127.0.0.1:9"


def test_a_hosts_name_is_looked_up(workers):
    _, port = workers.place(0)
    client = Client("localhost", port)
    assert client.address == f"localhost:{port}"
    with client:
        assert client.address == workers.addresses[0] and client.health_check().ready
    with pytest.raises(hbmesh.NoWorkerError, match="leads to no address"):
        Client("no-such-host.invalid", port).connect()
    closed = Client("localhost", port)
    closed.close()
    with pytest.raises(hbmesh.ShuttingDownError):
        closed.connect()
    with pytest.raises(hbmesh.NoWorkerError) as failure:
        Client("::1", 9).connect()
    assert failure.value.node == "[::1]:9"


def test_health_keys_and_registration(first, memory):
    health = first.health_check()
    assert health.ready and health.reason == "" and health.device_count == 4 and health.backend == "sim"
    assert health.session > 0
    assert len(first.generate_key()) == 36 and first.generate_key("kv").startswith("kv-")
    assert first.generate_key("kv") != hbmesh.generate_key("kv")
    piece = memory(0, [4096])
    first.pre_register_device_memory(piece.pointers, piece.sizes)
    with pytest.raises(hbmesh.InvalidError):
        first.pre_register_device_memory([4096], [1])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda c, m: c.mset_d2h("key", [m]), TypeError, "list of strings"),
        (lambda c, m: c.mset_d2h([1], [m]), TypeError, "key number 1 is int"),
        (lambda c, m: c.mset_d2h(["a", "b"], [m]), ValueError, "2 keys, but 1 blob lists"),
        (lambda c, m: c.mset_d2h(["a"], [DeviceBlobList(0, [])]), ValueError, "has no blobs"),
        (lambda c, m: c.mset_d2h(["a", "b"], [m, DeviceBlobList(1, m.blobs)]), ValueError, "one device"),
        (lambda c, m: c.mset_d2h(["a"], [DeviceBlobList(-1, m.blobs)]), ValueError, "device index"),
        (lambda c, m: c.mset_d2h(["a"], [DeviceBlobList(0, [Blob(1.5, 1)])]), TypeError, "whole numbers"),
        (lambda c, m: c.mset_d2h(["a"], [DeviceBlobList(0, [Blob(-1, 1)])]), ValueError, "2\\^64"),
        (lambda c, m: c.mset_d2h(["a"], [m], existence="maybe"), ValueError, "none of skip, fail, replace"),
        (lambda c, m: c.mset_d2h(["a"], [m], pin="tight"), ValueError, "none of none, soft, hard"),
        (lambda c, m: c.mset_d2h(["a"], [m], ttl_seconds=-1), ValueError, "ttl_seconds"),
        (lambda c, m: c.mget_h2d(["a"], [m], timeout_ms=1_800_001), ValueError, "timeout_ms"),
        (lambda c, m: c.mget_h2d(["a"], [m], timeout_ms=True), TypeError, "timeout_ms"),
        (
            lambda c, m: c.mset_d2h_from_multi_buffers(["a"], [[1, 2]], [[3]], device_index=0),
            ValueError,
            "2 pointers and 1 sizes",
        ),
        (lambda c, m: c.pre_register_device_memory([1], []), ValueError, "1 pointers, but 0 sizes"),
        (lambda c, m: c.generate_key(7), TypeError, "prefix"),
        (lambda c, m: c.generate_key("a\0b"), ValueError, "zero character"),
        (lambda c, m: c.explain("a\0b"), ValueError, "zero character"),
        (lambda c, m: c.explain(7), TypeError, "key must be a string"),
        (lambda c, m: c.push("a\0b", 0, m), ValueError, "zero character"),
        (lambda c, m: c.mset_d2h_from_multi_buffers(["a"], [], [], device_index=0), ValueError, "1 keys, but 0"),
        (lambda c, m: c.mget_h2d_from_multi_buffers(["a"], [], [], device_index=0), ValueError, "1 keys, but 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(first, memory, call, error, says):
    with pytest.raises(error, match=says):
        call(first, memory(0, [64]).list)
    assert first.exist(["a"]).presences == ["MISS"]


@pytest.mark.parametrize(
    ("keys", "says", "key"),
    [
        (["a", "b b"], "number 2", "b b"),
        (["a", "a"], "twice", "a"),
        (["a" * 256], "255", "a" * 256),
        ([], "no keys", None),
    ],
)
def test_bad_keys_are_named(first, memory, keys, says, key):
    with pytest.raises(hbmesh.InvalidError, match=says) as failure:
        first.mset_d2h(keys, [memory(0, [64]).list] * len(keys))
    assert (failure.value.key, failure.value.node) == (key, first.address)


def test_a_blob_outside_of_its_allocation_is_named(first, memory):
    piece = memory(0, [64])
    with pytest.raises(hbmesh.InvalidError, match="number 1"):
        first.mset_d2h(["a"], [DeviceBlobList(0, [Blob(piece.pointers[0], 1 << 30)])])


def test_arguments_of_a_client():
    for bad in ({"host": 1}, {"token": 2}, {"port": "31501"}):
        with pytest.raises(TypeError):
            Client(**{"host": "127.0.0.1", "port": 31501, **bad})
    for bad in ({"host": ""}, {"port": 0}, {"port": 70000}, {"connect_timeout_ms": -1}):
        with pytest.raises(ValueError):
            Client(**{"host": "127.0.0.1", "port": 31501, **bad})


def test_errors_name_key_and_node_once():
    error = hbmesh.NotFoundError(StatusCode.NOT_FOUND, "nothing there", key="k 1", node="1.2.3.4:5")
    assert str(error) == "NOT_FOUND: nothing there (key 'k 1', node 1.2.3.4:5)"
    error = hbmesh.NotFoundError(StatusCode.NOT_FOUND, "k is not at 1.2.3.4:5", key="k", node="1.2.3.4:5")
    assert str(error) == "NOT_FOUND: k is not at 1.2.3.4:5"
    assert str(HbmeshError(StatusCode.INVALID, "no")) == "INVALID: no"


def test_a_result_tells_what_carried_the_bytes():
    from hbmesh.results import PathRecord, _said_of

    path = PathRecord("tcp", 0, 1, 1, 1, 1, "1.2.3.4:5", True, True, True)
    assert _said_of(path) == "tcp from 1.2.3.4:5, from SSD, fallback, staged"
    assert _said_of(path._replace(source="", fallback=False, staged=False, spilled=False)) == "tcp"


def test_errors_travel_between_processes():
    import pickle

    error = hbmesh.NotFoundError(StatusCode.NOT_FOUND, "gone", key="k", node="1.2.3.4:5")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is hbmesh.NotFoundError and isinstance(copy, HbmeshError)
    assert (copy.code, copy.message, copy.key, copy.node) == (3, "gone", "k", "1.2.3.4:5")


def test_simulated_memory():
    device = SimDevice(3)
    pointer = device.allocate(16)
    assert pointer % 512 == 0
    device.copy_in(pointer, bytearray(b"0123456789abcdef"))
    device.copy_in(pointer, memoryview(b"xy"))
    assert device.copy_out(pointer, 4) == b"xy23"
    with pytest.raises(HbmeshError) as failure:
        device.copy_in(pointer, bytes(1 << 20))
    assert failure.value.code == StatusCode.OUT_OF_RANGE
    device.free(pointer)
    with pytest.raises(hbmesh.InvalidError):
        device.free(pointer)
    with pytest.raises(ValueError):
        SimDevice(64)


def test_memory_made_just_for_a_call_lives_as_long_as_it(first, second, key):
    """DeviceBlobList.of(0, something new): nobody else holds what it is of."""
    for make in (lambda device: SimDevice(device).buffer(4096), lambda device: SimDevice(device).array(4096)):
        first.mset_d2h([key], [DeviceBlobList.of(0, make(0))]).raise_for_failures()
        waiting = second.mget_h2d_async([f"{key}-later"], [DeviceBlobList.of(1, make(1))], timeout_ms=1_800_000)
        (received,) = second.dev_subscribe([f"{key}-d2d"], [DeviceBlobList.of(1, make(1))])
        (sent,) = first.dev_publish([f"{key}-d2d"], [DeviceBlobList.of(0, make(0))])
        gc.collect()
        taken = [SimDevice(1).buffer(4096) for _ in range(8)]  # would be where freed memory was
        for piece in taken:
            SimDevice.copy_in(piece.pointer, b"t" * 4096)
        first.mset_d2h([f"{key}-later"], [DeviceBlobList.of(0, make(0))]).raise_for_failures()
        assert waiting.get(LONG * 1000) and received.get(LONG * 1000) and sent.get(LONG * 1000)
        assert all(SimDevice.copy_out(piece.pointer, 4096) == b"t" * 4096 for piece in taken)
        assert first.delete([key, f"{key}-later"]).existed == [True, True]


def test_forgotten_calls_keep_their_memory_to_their_end(first, second, memory, key):
    """A future, or a ticket, that nobody holds any more: the transfer goes on, and so does its memory."""
    source, alive = memory(0, [64], seed=1), []

    def piece():
        buffer = SimDevice(1).buffer(64)
        alive.append(weakref.ref(buffer))
        return DeviceBlobList.of(1, buffer)

    second.mget_h2d_async([key], [piece()], timeout_ms=1_800_000)
    (forgotten,) = second.dev_subscribe([f"{key}-d2d"], [piece()])
    text = second.reserve_layers([piece(), piece()]).text  # without its ticket: ended, and its memory soon free
    cancelled = second.mget_h2d_async([f"{key}-not"], [piece()], timeout_ms=1_800_000)
    cancelled.cancel()
    del forgotten, cancelled
    gc.collect()
    assert [each() is not None for each in alive[:2]] == [True, True]
    until("what was cancelled has let go", lambda: second.exist([key]) is not None and alive[-1]() is None)
    until("the reservation, too", lambda: second.exist([key]) is not None and alive[2:4] and alive[2]() is None)
    with pytest.raises(hbmesh.NotFoundError):
        first.push(text, 0, source.list)
    assert [each() is not None for each in alive[:2]] == [True, True]
    first.mset_d2h([key], [source.list]).raise_for_failures()
    (sent,) = first.dev_publish([f"{key}-d2d"], [source.list])
    assert sent.get(LONG * 1000)
    until("their memory is free", lambda: second.exist([key]) is not None and not any(each() for each in alive))


def test_closing_lets_go_of_forgotten_calls(workers, key):
    buffer = SimDevice(1).buffer(64)
    alive = weakref.ref(buffer)
    with Client(*workers.place(0)) as client:
        client.mget_h2d_async([key], [DeviceBlobList.of(1, buffer)], timeout_ms=1_800_000)
        del buffer
        gc.collect()
        assert alive() is not None
    assert alive() is None


def test_arrays_own_their_memory():
    numpy = pytest.importorskip("numpy")
    array = SimDevice(1).array((2, 3), "float32")
    array[:] = numpy.arange(6, dtype="float32").reshape(2, 3)
    pointer = array.ctypes.data
    view = array[1]
    del array
    assert SimDevice.copy_out(pointer, 24)[12:] == view.tobytes()
    del view
    with pytest.raises(hbmesh.InvalidError):  # freed with the last view
        SimDevice.free(pointer)
