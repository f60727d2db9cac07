"""Goal: what keeps memory for calls under way costs little and lets go in time, however many they are.
Method: a stand-in for the library that counts what it is asked.
"""

import gc
from types import SimpleNamespace

import pytest

import hbmesh
from hbmesh import Blob, Client, DeviceBlobList, LayerTicket
from hbmesh._batch import batch_of
from hbmesh._session import KeptCalls


class FewCalls:
    """The library's part of futures, counted: `ended` are done."""

    def __init__(self):
        self.ended, self.freed, self.looks, self.layers = set(), [], 0, []

    def future_done(self, handle):
        self.looks += 1
        return isinstance(handle, int) and handle in self.ended

    def future_free(self, handle):
        self.freed.append(handle)

    def ticket_text(self, handle):
        return b"text"

    def ticket_layer_count(self, handle):
        return 2

    def ticket_layer(self, handle, index, out):
        self.layers.append(index)
        out._obj.value = 7  # any handle but NULL
        return 0

    def ticket_free(self, handle):
        self.freed.append(handle)


def test_many_forgotten_calls_cost_the_next_ones_little():
    api, kept = FewCalls(), KeptCalls()
    for handle in range(100):
        kept.add(api, handle, ["memory"])
    api.looks, api.ended = 0, set(range(100)) - {5}
    kept.look(api)
    assert (api.looks, len(api.freed)) == (KeptCalls.AT_ONCE, KeptCalls.AT_ONCE - 1)
    for _ in range(6):
        kept.look(api)
    assert sorted(api.freed) == sorted(api.ended) and api.looks <= 7 * KeptCalls.AT_ONCE
    for handle in range(100, 200):
        kept.add(api, handle, ["memory"])
    api.ended = set(range(200))
    kept.look_at_all(api)
    assert sorted(api.freed) == list(range(200))


def test_waiting_for_a_layer_again_and_again_leaves_nothing_behind():
    forgotten, api = [], FewCalls()
    client = SimpleNamespace(_api=api, address="1.2.3.4:5", _forget=lambda handle, owners: forgotten.append(owners))
    ticket = LayerTicket(client, "handle", ["memory"])
    for _ in range(20):
        with pytest.raises(hbmesh.FutureTimeoutError, match="waited 0 ms for layer 1"):
            ticket.layer(1, 0)
    assert (api.layers, forgotten) == ([1], [])
    own = ticket.future(1)
    del ticket
    gc.collect()
    assert (api.layers, forgotten, api.freed) == ([1, 1, 0], [["memory"]] * 2, ["handle"])
    del own
    gc.collect()
    assert forgotten == [["memory"]] * 3


def test_a_future_of_a_key_keeps_the_memory_of_that_key_alone():
    forgotten = []
    client = SimpleNamespace(_usable=lambda: None, _check=lambda *_: None, _stop_ms=lambda _: 0)
    client._forget = lambda handle, owners: forgotten.extend(owners)

    def begin(*arguments):
        arguments[-1][:] = [1, 2]
        return 0

    lists = [DeviceBlobList(0, [Blob(4096, number)]) for number in (1, 2)]
    futures = Client._futures(client, begin, batch_of(["a", "b"], lists))
    assert [each.key for each in futures] == ["a", "b"]
    for number in (1, 2):
        futures.pop(0)
        gc.collect()
        assert forgotten == lists[:number]
