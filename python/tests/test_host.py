"""Goal: values of ordinary memory become objects and come back, however large, many, and changing they are.
Method: HostObjects over two workers, with a small limit of the staging memory; writers that replace a value by ones of
other lengths while it is read; a stand-in for the real acl that knows which device a thread works on.
"""

import threading

import pytest
from conftest import LONG, until

import hbmesh
from hbmesh import host
from hbmesh.host import AclMemory, HostObjects
from hbmesh.sim.acl import make_module


@pytest.fixture
def objects(first):
    return HostObjects(first, 1)


def test_values_of_several_pieces(objects, second):
    keys = [second.generate_key("host") for _ in range(3)]
    values = [[b"one", bytearray(b"two")], [memoryview(b"three")], [b"f" * 70_000]]
    put = objects.put(keys, values, existence="fail", checksum=True)
    assert put and put.keys == keys and put.existed == [False] * 3
    result, found = HostObjects(second).get([*keys, "not-there"])
    assert found[:3] == [[b"one", b"two"], [b"three"], [b"f" * 70_000]] and found[3] is None
    assert result.codes == [0, 0, 0, 3] and result.failed_keys == ["not-there"]
    assert not objects.put(keys, values, existence="fail")
    assert second.delete(keys).existed == [True] * 3


def test_large_ones_go_in_parts(objects, second, monkeypatch):
    """The limit below, at and above what fits; one value is larger than the limit alone."""
    staged = []
    monkeypatch.setattr(host, "STAGING_BYTES_MAX", 1000)
    allocate = hbmesh.SimDevice.allocate
    monkeypatch.setattr(hbmesh.SimDevice, "allocate", lambda self, size: staged.append(size) or allocate(self, size))
    keys = [second.generate_key("host") for _ in range(6)]
    values = [[b"a" * 999], [b"b"], [b"c"], [b"d" * 2000], [b"e" * 500], [b"f" * 500]]
    put = objects.put(keys, values)
    assert staged == [1000, 1, 2000, 1000]
    assert put and put.keys == keys and put.bytes == [999, 1, 1, 2000, 500, 500] and len(put.existed) == 6
    assert second.delete(keys[3:4])
    result, found = objects.get(keys)
    assert [each and each[0][:1] for each in found] == [b"a", b"b", b"c", None, b"e", b"f"]
    assert result.failed_keys == keys[3:4] and max(staged[4:]) <= 1000
    failing = objects.put(keys, values, existence="fail")
    assert failing.failed_keys == [*keys[:3], *keys[4:]] and failing[4].code == hbmesh.StatusCode.KEY_ALREADY_EXISTS
    second.delete(keys)


def test_what_can_not_be_put(objects):
    for values, error, says in (
        ([[b"a"]], ValueError, "2 keys, but 1 values"),
        ([[memoryview(b"abcd")[::2]], [b"b"]], TypeError, "not in one piece"),
        ([["text"], [b"b"]], TypeError, "piece 1 of key 'a' is a str, which has no bytes: encode it"),
    ):
        with pytest.raises(error, match=says):
            objects.put(["a", "b"], values)
    with pytest.raises(hbmesh.InvalidError, match="'a' is in the call twice"):
        objects.put(["a", "b", "a"], [[b"x"]] * 3)
    with pytest.raises(hbmesh.InvalidError, match="no keys"):
        objects.put([], [])


def test_a_value_that_changes_its_length_is_read_whole(objects, second):
    """Between the look at the shape and the get, another process may replace the object."""
    key, reader = second.generate_key("host"), HostObjects(second)
    objects.put([key], [[b"0"]])
    stop, lengths = threading.Event(), set()

    def write():
        number = 0
        while not stop.wait(0.002):  # readers that are replaced all the time are told to try again
            number += 1
            objects.put([key], [[bytes([number % 251]) * (1 + number % 97)]], existence="replace")

    def read():
        result, (value,) = reader.get([key])
        if result[0].code == hbmesh.StatusCode.TRY_AGAIN:
            return False  # what a busy writer, or a busy machine, makes of it; never anything else
        result.raise_for_failures()
        assert len(set(value[0])) == 1  # never a mixture
        lengths.add(len(value[0]))
        return len(lengths) >= 10

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until("it was read in ten lengths", read)
    finally:
        stop.set()
        writer.join(LONG)
    second.delete([key])


def test_a_shape_that_changes_in_between_is_asked_for_again(objects, second, monkeypatch):
    key, reader = second.generate_key("host"), HostObjects(second)
    objects.put([key], [[b"short"]])
    get, calls = second.mget_h2d_from_multi_buffers_async, []

    def replaced_before(*arguments, **options):
        calls.append(arguments)
        if len(calls) < 3:
            objects.put([key], [[b"longer" * len(calls)]], existence="replace")
        return get(*arguments, **options)

    monkeypatch.setattr(second, "mget_h2d_from_multi_buffers_async", replaced_before)
    result, found = reader.get([key])
    assert result and found == [[b"longer" * 2]] and len(calls) == 3
    second.delete([key])


def test_one_that_changes_all_the_time_is_to_be_tried_again(objects, second, monkeypatch):
    key, reader, lengths = second.generate_key("host"), HostObjects(second), iter(range(2, 100))
    objects.put([key], [[b"x"]])
    get = second.mget_h2d_from_multi_buffers_async

    def replaced_before(*arguments, **options):
        objects.put([key], [[b"x" * next(lengths)]], existence="replace")
        return get(*arguments, **options)

    monkeypatch.setattr(second, "mget_h2d_from_multi_buffers_async", replaced_before)
    result, found = reader.get([key])
    assert found == [None] and result[0].code == hbmesh.StatusCode.TRY_AGAIN and "other lengths" in result[0].message
    second.delete([key])


def test_an_object_of_another_family_is_refused(objects, first, memory):
    key, source = first.generate_key("host"), memory(0, [8], seed=1)
    assert first.dev_mset([key], [source.list])
    result, found = objects.get([key])
    assert found == [None] and result[0].code == hbmesh.StatusCode.INVALID
    assert first.dev_delete([key])


def test_staging_is_on_the_device_it_says(first):
    """On cards, memory is allocated on the device that the thread works on: it is that one meanwhile, and then its own
    again."""
    acl = make_module(4)
    acl.rt.set_device(3)
    allocated, malloc = [], acl.rt.malloc
    acl.rt.malloc = lambda size, policy: allocated.append(acl.rt.get_device()) or malloc(size, policy)
    objects = HostObjects(first, 1)
    objects._memory = AclMemory(acl)
    key = first.generate_key("host")
    assert objects.put([key], [[b"staged"]]) and acl.rt.get_device() == (3, 0)
    assert objects.get([key])[1] == [[b"staged"]] and acl.rt.get_device() == (3, 0)
    assert allocated == [(1, 0)] * 2
    acl.rt.reset_device(3)
    assert first.delete([key]) and objects.put([key], [[b"staged"]]) and acl.rt.get_device() == (1, 0)
    with pytest.raises(hbmesh.HbmeshError, match="acl 107001"), AclMemory(acl).on(4):
        pass
    first.delete([key])
