"""Goal: device to device, the device cache and layers from Python, between two workers and within one.
Method: two clients of two workers; bytes, futures, codes.
"""

import pytest
from conftest import LONG

import hbmesh
from hbmesh import Client, StatusCode


def test_publish_and_subscribe_in_either_order(first, second, memory):
    for round_number in range(2):
        keys = [first.generate_key("d2d") for _ in range(3)]
        sources = [memory(0, [256, 64], seed=number) for number in range(3)]
        targets = [memory(1, [256, 64]) for _ in range(3)]
        if round_number == 0:
            sent = first.dev_publish(keys, [each.list for each in sources])
            received = second.dev_subscribe(keys, [each.list for each in targets])
        else:
            received = second.dev_subscribe(keys, [each.list for each in targets], timeout_ms=LONG * 1000)
            sent = first.dev_publish(keys, [each.list for each in sources])
        assert [future.get(LONG * 1000).bytes for future in received] == [[320]] * 3
        for future in sent:
            future.get(LONG * 1000)
        assert all(target.holds(number) for number, target in enumerate(targets))
        assert first.exist(keys).presences == ["MISS"] * 3


def test_what_goes_wrong_is_said_by_key(first, second, memory, key):
    source, same_card, other_shape = memory(0, [64], seed=1), memory(0, [64]), memory(1, [32])
    first.dev_publish([key], [source.list])
    (refused,) = first.dev_subscribe([key], [same_card.list])
    with pytest.raises(hbmesh.InvalidError) as failure:
        refused.get(LONG * 1000)
    assert failure.value.key == key
    (refused,) = second.dev_subscribe([key], [other_shape.list])
    with pytest.raises(hbmesh.InvalidError, match="64"):
        refused.get(LONG * 1000)
    (nobody,) = second.dev_subscribe([f"{key}-not"], [memory(1, [64]).list], timeout_ms=30)
    with pytest.raises(hbmesh.FutureTimeoutError):
        nobody.get(LONG * 1000)
    assert first.mget_h2d([key], [memory(1, [64]).list])[0].code == StatusCode.INVALID  # other family


def test_the_end_of_the_publisher_reaches_the_subscriber(workers, second, memory, key):
    publisher = Client(*workers.place(0)).connect()
    publisher.dev_publish([key], [memory(0, [64], seed=1).list])
    publisher.close()
    (received,) = second.dev_subscribe([key], [memory(1, [64]).list], timeout_ms=50)
    with pytest.raises((hbmesh.FutureTimeoutError, hbmesh.PeerDeadError)):
        received.get(LONG * 1000)


def test_device_cache(first, second, memory, key):
    source, targets = memory(0, [128], seed=5), [memory(1, [128]), memory(2, [128])]
    assert first.dev_mset([key], [source.list])
    assert first.dev_mset([key], [source.list]).existed == [True]
    assert second.dev_mget([key], [targets[0].list], timeout_ms=1000, share_replica=True)
    assert second.dev_mget_async([key], [targets[1].list]).get()
    assert all(target.holds(5) for target in targets)
    assert second.dev_local_delete([key])
    assert second.dev_delete([key]).existed == [True]
    assert second.dev_mget([key], [targets[0].list])[0].code == StatusCode.NOT_FOUND
    assert first.dev_delete_async([key]).get().existed == [False]
    assert source.holds(5)


def test_layers(first, second, memory):
    targets = [memory(1, [64, 64]) for _ in range(3)]
    ticket = second.reserve_layers([target.list for target in targets], ttl_seconds=LONG)
    assert ticket.layer_count == 3
    for layer in (1, 0):
        source = memory(0, [64, 64], seed=layer)
        assert first.push(ticket.text, layer, source.list)
        ticket.layer(layer, LONG * 1000)
        assert targets[layer].holds(layer)
    with pytest.raises(hbmesh.FutureTimeoutError):
        ticket.all(0)
    with pytest.raises(hbmesh.KeyExistsError):
        first.push(ticket.text, 0, memory(0, [64, 64]).list)
    with pytest.raises(hbmesh.HbmeshError) as failure:
        ticket.layer(3, 0)
    assert failure.value.code == StatusCode.OUT_OF_RANGE
    assert first.push_async(ticket.text, 2, memory(0, [64, 64], seed=2).list).get()
    assert ticket.future(2).get(LONG * 1000).bytes == [128]
    ticket.all(LONG * 1000)
    with second.reserve_layers([targets[0].list]) as cancelled:
        pass
    with pytest.raises(hbmesh.CancelledError):
        cancelled.layer(0, LONG * 1000)
    with pytest.raises(hbmesh.KeyExistsError):  # the ticket is over; its layers are there
        first.push(ticket.text, 0, memory(0, [64, 64]).list)
    with pytest.raises(ValueError, match="ttl_seconds"):
        second.reserve_layers([targets[0].list], ttl_seconds=0)
