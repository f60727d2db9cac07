"""Goal: code written for yr.datasystem runs unchanged: names, arguments, defaults, types, errors and returns. Method:
signatures are compared with the published ones; every call runs against two workers; wrong input meets the promised
exception before anything is done.
"""

import importlib
import inspect
import json
import typing

import pytest
from conftest import LONG

import hbmesh
import yr.datasystem as ds
from yr.datasystem.hetero_client import Blob, DeviceBlobList, HeteroClient
from yr.datasystem.kv_client import ExistenceOpt, KVClient, SetParam
from yr.datasystem.object_client import WriteMode

CONNECTION = (
    'connect_timeout_ms=9000, token="", client_public_key="", client_private_key="", server_public_key="", '
    'access_key="", secret_key="", tenant_id="", enable_cross_node_connection=False, req_timeout_ms=0'
)
FACE = {
    "HeteroClient.__init__": f"host, port, {CONNECTION}, enable_remote_h2d=False",
    "HeteroClient.init": "",
    "HeteroClient.mset_d2h": "keys, data_blob_list, set_param=None",
    "HeteroClient.mget_h2d": "keys, data_blob_list, sub_timeout_ms",
    "HeteroClient.mset_d2h_from_multi_buffers": "keys, addrs, sizes, set_param=None",
    "HeteroClient.mget_h2d_from_multi_buffers": "keys, addrs, sizes, sub_timeout_ms=0",
    "HeteroClient.async_mset_d2h": "keys, data_blob_list, set_param=None",
    "HeteroClient.async_mget_h2d": "keys, data_blob_list, sub_timeout_ms",
    "HeteroClient.delete": "keys",
    "HeteroClient.dev_publish": "keys, data_blob_list",
    "HeteroClient.dev_subscribe": "keys, data_blob_list",
    "HeteroClient.dev_mset": "keys, data_blob_list",
    "HeteroClient.dev_mget": "keys, data_blob_list, sub_timeout_ms",
    "HeteroClient.dev_delete": "keys",
    "HeteroClient.async_dev_delete": "keys",
    "HeteroClient.dev_local_delete": "keys",
    "HeteroClient.exist": "keys",
    "HeteroClient.batch_is_exist": "keys",
    "HeteroClient.get_meta_info": "keys, is_dev_key",
    "HeteroClient.pre_register_device_memory": "dev_ptrs, sizes",
    "HeteroClient.generate_key": 'prefix=""',
    "DsClient.__init__": f'host="", port=0, {CONNECTION}',
    "DsClient.hetero": "",
    "DsClient.kv": "",
    "Blob.__init__": "dev_ptr, size",
    "DeviceBlobList.__init__": "dev_idx, blob_list, src_offset=0",
    "Future.get": "timeout_ms=60000",
    "DsTensorClient.__init__": (
        'host, port, device_id, connect_timeout_ms=60000, client_public_key="", client_private_key="", '
        'server_public_key="", req_timeout_ms=0, enable_remote_h2d=False'
    ),
    "DsTensorClient.dev_mget_into_tensor": "keys, tensor, copy_ranges, sub_timeout_ms=60000",
    "CopyRange.__init__": "src_offset, dst_offset, length",
}


@pytest.mark.parametrize("name", FACE)
def test_arguments_and_defaults_are_the_published_ones(name):
    owner, method = name.split(".")
    found = inspect.signature(getattr(getattr(ds, owner), method)).parameters.values()
    usual = [p for p in found if p.name != "self" and p.kind is not inspect.Parameter.KEYWORD_ONLY]
    wanted = inspect.signature(eval(f"lambda {FACE[name]}: None")).parameters.values()
    assert [(p.name, p.default) for p in usual] == [(p.name, p.default) for p in wanted]


TYPES = {
    "HeteroClient.mset_d2h": ("List[str], List[DeviceBlobList], Optional[SetParam]", "None"),
    "HeteroClient.mget_h2d": ("List[str], List[DeviceBlobList], int", "List[str]"),
    "HeteroClient.mset_d2h_from_multi_buffers": (
        "List[str], List[List[int]], List[List[int]], Optional[SetParam]",
        "None",
    ),
    "HeteroClient.mget_h2d_from_multi_buffers": ("List[str], List[List[int]], List[List[int]], int", "List[str]"),
    "HeteroClient.async_mset_d2h": ("List[str], List[DeviceBlobList], Optional[SetParam]", "Future"),
    "HeteroClient.async_mget_h2d": ("List[str], List[DeviceBlobList], int", "Future"),
    "HeteroClient.delete": ("List[str]", "List[str]"),
    "HeteroClient.dev_publish": ("List[str], List[DeviceBlobList]", "List[Future]"),
    "HeteroClient.dev_subscribe": ("List[str], List[DeviceBlobList]", "List[Future]"),
    "HeteroClient.dev_mset": ("List[str], List[DeviceBlobList]", "List[str]"),
    "HeteroClient.dev_mget": ("List[str], List[DeviceBlobList], int", "List[str]"),
    "HeteroClient.dev_delete": ("List[str]", "List[str]"),
    "HeteroClient.async_dev_delete": ("List[str]", "Future"),
    "HeteroClient.dev_local_delete": ("List[str]", "List[str]"),
    "HeteroClient.exist": ("List[str]", "List[bool]"),
    "HeteroClient.batch_is_exist": ("List[str]", "List[int]"),
    "HeteroClient.get_meta_info": ("List[str], bool", "Tuple[List[str], List[MetaInfo]]"),
    "HeteroClient.pre_register_device_memory": ("List[int], List[int]", "None"),
    "HeteroClient.generate_key": ("str", "str"),
    "DsClient.hetero": ("", "HeteroClient"),
    "DsClient.kv": ("", "KVClient"),
    "Future.get": ("int", "List[str]"),
    "DsTensorClient.dev_mget_into_tensor": ("List[str], Any, List[CopyRange], int", "List[str]"),
    "Blob.__init__": ("int, int", "None"),
    "DeviceBlobList.__init__": ("int, List[Blob], int", "None"),
    "CopyRange.__init__": ("int, int, int", "None"),
}


@pytest.mark.parametrize("name", TYPES)
def test_types_are_the_published_ones(name):
    owner, method = name.split(".")
    hints = typing.get_type_hints(getattr(getattr(ds, owner), method))
    arguments, result = (eval(f"[{text}]", {**vars(typing), **vars(ds)}) for text in TYPES[name])
    returned = hints.pop("return")
    assert [None if returned is type(None) else returned] == result
    assert list(hints.values()) == arguments


def test_every_call_of_the_page_is_compared():
    """What the two tables above leave out is neither argument nor result: constructors' defaults say their types."""
    assert set(TYPES) <= set(FACE) and all(name.endswith(("__init__", ".init")) for name in set(FACE) - set(TYPES))
    for name in [name for name in FACE if name.endswith("Client.__init__")]:
        owner, method = name.split(".")
        function = getattr(getattr(ds, owner), method)
        hints = typing.get_type_hints(function)
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            wanted = {"host": str, "port": int, "device_id": int}.get(parameter.name, type(parameter.default))
            assert hints[parameter.name] is wanted, (name, parameter)


PLACES = {
    "hetero_client": "HeteroClient Blob DeviceBlobList Future MetaInfo",
    "kv_client": "KVClient SetParam ExistenceOpt",
    "object_client": "WriteMode CacheType ConsistencyType",
    "ds_client": "DsClient",
    "ds_tensor_client": "DsTensorClient CopyRange",
    "util": "Status FutureTimeoutException DsError",
}


@pytest.mark.parametrize("module", PLACES)
def test_names_are_where_scripts_import_them_from(module):
    names = PLACES[module].split()
    assert sorted(importlib.import_module(f"yr.datasystem.{module}").__all__) == sorted(names)
    for package in ("yr.datasystem", "datasystem"):
        found = importlib.import_module(f"{package}.{module}")
        assert all(getattr(found, name) is getattr(ds, name) for name in names)
    assert sorted(ds.__all__) == sorted(" ".join(PLACES.values()).split())


@pytest.mark.parametrize(
    "module", ["hetero_client", "kv_client", "object_client", "ds_client", "ds_tensor_client", "util", ""]
)
def test_the_older_name_has_the_same_classes(module):
    old = importlib.import_module(f"datasystem.{module}".rstrip("."))
    new = importlib.import_module(f"yr.datasystem.{module}".rstrip("."))
    names = [name for name in dir(old) if name[0].isupper()]
    assert names and all(getattr(old, name) is getattr(new, name) for name in names)


def test_enumerations_have_the_published_values():
    assert [mode.name for mode in WriteMode] == [
        "NONE_L2_CACHE",
        "WRITE_THROUGH_L2_CACHE",
        "WRITE_BACK_L2_CACHE",
        "NONE_L2_CACHE_EVICT",
        "WRITE_BACK_L2_CACHE_EVICT",
    ]
    param = SetParam()
    assert (param.write_mode, param.ttl_second, param.existence) == (WriteMode.NONE_L2_CACHE, 0, ExistenceOpt.NONE)
    assert param.cache_type is ds.CacheType.MEMEORY


@pytest.fixture(scope="module")
def client(workers):
    made = HeteroClient(*workers.place(0))
    made.init()
    yield made
    made.close()


@pytest.fixture(scope="module")
def remote(workers):
    made = HeteroClient(*workers.place(1), enable_remote_h2d=True)
    made.init()
    yield made
    made.close()


def lists_of(*objects):
    return [DeviceBlobList(o.list.device_index, [Blob(*blob) for blob in o.list.blobs]) for o in objects]


def test_host_objects(client, remote, memory, key):
    source, target = memory(0, [300, 40], seed=1), memory(1, [300, 40])
    assert client.mset_d2h([key], lists_of(source)) is None
    assert client.mset_d2h([key], lists_of(source)) is None  # the first write wins
    assert remote.mget_h2d([key], lists_of(target), 1000) == []
    assert target.holds(1)
    assert remote.mget_h2d([f"{key}-not", key], lists_of(target, target), 0) == [f"{key}-not"]
    with pytest.raises(RuntimeError, match=r"^code: \[3\], msg: \[.*set it first.*\]$") as failure:
        remote.mget_h2d([f"{key}-not"], lists_of(target), 0)
    assert isinstance(failure.value, hbmesh.HbmeshError)
    assert (failure.value.code, failure.value.key) == (3, f"{key}-not")
    assert failure.value.failed_keys == [f"{key}-not"]
    assert remote.exist([key, f"{key}-not"]) == [True, False]
    assert remote.batch_is_exist([key, f"{key}-not"]) == [1, 0]
    failed, metas = remote.get_meta_info([f"{key}-not", key], False)
    assert failed == [f"{key}-not"] and [meta.blob_size_list for meta in metas] == [[300, 40]]
    assert remote.delete([key]) == [] and remote.delete([key]) == []


def test_set_param(client, memory, key):
    source = memory(0, [64], seed=1)
    param = SetParam()
    param.write_mode = WriteMode.NONE_L2_CACHE_EVICT
    param.ttl_second = 3600
    client.mset_d2h([key], lists_of(source), param)
    param.existence = ExistenceOpt.NX
    with pytest.raises(RuntimeError, match=r"code: \[2004\]"):
        client.mset_d2h([key], lists_of(source), param)
    param.existence = ExistenceOpt.NONE
    param.write_mode = WriteMode.WRITE_THROUGH_L2_CACHE
    with pytest.warns(UserWarning, match="no second-level cache"):
        client.mset_d2h([key], lists_of(source), param)
    param.ttl_second = "soon"
    with pytest.raises(TypeError, match="ttl_second"):
        client.mset_d2h([key], lists_of(source), param)


def test_multi_buffers_take_the_threads_device(client, remote, memory, key):
    source, target = memory(0, [300, 40], seed=2), memory(1, [300, 40])
    with pytest.raises(RuntimeError, match="no current device"):
        client.mset_d2h_from_multi_buffers([key], [source.pointers], [source.sizes])
    hbmesh.set_device(0)
    assert client.mset_d2h_from_multi_buffers([key], [source.pointers], [source.sizes], SetParam()) is None
    hbmesh.set_device(1)
    failed = remote.mget_h2d_from_multi_buffers([key], [target.pointers], [target.sizes], 1000)
    assert failed == [] and isinstance(failed, list) and target.holds(2)
    both = remote.mget_h2d_from_multi_buffers(["no-key", key], [target.pointers] * 2, [target.sizes] * 2)
    assert both == ["no-key"]
    hbmesh.set_device(None)
    assert hbmesh.current_device() is None


def test_asynchronous_calls(client, remote, memory, key):
    source, target = memory(0, [64], seed=3), memory(1, [64])
    get = remote.async_mget_h2d([key], lists_of(target), LONG * 1000)
    with pytest.raises(ds.FutureTimeoutException, match=r"code: \[5002\]"):
        get.get(0)
    assert client.async_mset_d2h([key], lists_of(source)).get() == []
    assert get.get(LONG * 1000) == [] and target.holds(3)
    nothing = remote.async_mget_h2d([key, f"{key}-not"], lists_of(target, target), 0)
    assert nothing.get() == [f"{key}-not"]
    with pytest.raises(RuntimeError, match=r"code: \[3\]"):
        remote.async_mget_h2d([f"{key}-not"], lists_of(target), 0).get()
    with pytest.raises(RuntimeError, match=r"code: \[2\].*1800000"):
        get.get(1_800_001)
    with pytest.raises(TypeError):
        get.get("soon")


def test_device_to_device(client, remote, memory):
    keys = [client.generate_key("yr"), client.generate_key("yr")]
    sources, targets = [memory(0, [64], seed=n) for n in range(2)], [memory(1, [64]) for _ in range(2)]
    received = remote.dev_subscribe(keys, lists_of(*targets))
    sent = client.dev_publish(keys, lists_of(*sources))
    assert [future.get(LONG * 1000) for future in received + sent] == [[]] * 4
    assert all(target.holds(n) for n, target in enumerate(targets))
    assert client.dev_mset(keys, lists_of(*sources)) == []
    assert remote.dev_mget(keys, lists_of(*targets), 1000) == []
    assert remote.dev_mget([keys[0], "no-key"], lists_of(*targets), 0) == ["no-key"]
    assert remote.dev_local_delete(keys) == []
    assert client.dev_delete(keys[:1]) == [] and client.async_dev_delete(keys[1:]).get() == []
    with pytest.raises(RuntimeError, match=r"code: \[3\]"):
        remote.dev_mget(keys, lists_of(*targets), 0)


def test_a_part_of_an_object(client, remote, memory, key):
    source, target = memory(0, [100, 60], seed=5), memory(1, [30, 20])
    client.dev_mset([key], lists_of(source))
    (wanted,) = lists_of(target)
    wanted.set_src_offset(90)
    assert remote.dev_mget([key], [wanted], 1000) == []
    whole = source.pattern(0, 5) + source.pattern(1, 5)
    assert [target.device.copy_out(p, s) for p, s in zip(target.pointers, target.sizes)] == [
        whole[90:120],
        whole[120:140],
    ]
    wanted.set_src_offset(111)
    with pytest.raises(RuntimeError, match=r"code: \[2\].*160 bytes, asked for 50 from 111"):
        remote.dev_mget([key], [wanted], 0)
    with pytest.raises(RuntimeError, match="src_offset is for dev_mget"):
        remote.mget_h2d([key], [wanted], 0)
    wanted.set_src_offset(1)
    assert remote.dev_mget(["no-key", key], [wanted, wanted], 0) == ["no-key"]
    client.dev_delete([key])


def test_keys_and_registration(client, memory):
    assert len(client.generate_key()) == 36 and client.generate_key("p").startswith("p-")
    piece = memory(0, [4096])
    assert client.pre_register_device_memory(piece.pointers, piece.sizes) is None
    with pytest.raises(ValueError):
        client.pre_register_device_memory(piece.pointers, [])
    with pytest.raises(RuntimeError, match=r"code: \[2\]"):
        client.pre_register_device_memory([4096], [1])


def test_wrong_types_and_shapes(client, memory):
    (good,) = lists_of(memory(0, [64]))
    for call in (
        lambda: client.mset_d2h("a", [good]),
        lambda: client.mset_d2h([1], [good]),
        lambda: client.mset_d2h(["a"], good),
        lambda: client.mset_d2h(["a"], [1]),
        lambda: client.mset_d2h(["a"], [DeviceBlobList("0", good.blob_list)]),
        lambda: client.mset_d2h(["a"], [DeviceBlobList(0, (1,))]),
        lambda: client.mset_d2h(["a"], [DeviceBlobList(0, [7])]),
        lambda: client.mset_d2h(["a"], [DeviceBlobList(0, [Blob("x", 1)])]),
        lambda: client.mset_d2h(["a"], [good], {"write_mode": 1}),
        lambda: client.mget_h2d(["a"], [good], "1"),
        lambda: client.mget_h2d(["a"], [good], True),
        lambda: client.mget_h2d_from_multi_buffers(["a"], [1], [[1]]),
        lambda: client.get_meta_info(["a"], 1),
        lambda: client.delete(None),
        lambda: client.generate_key(None),
        lambda: client.pre_register_device_memory([1.0], [1]),
        lambda: HeteroClient(1, 31501),
        lambda: HeteroClient("127.0.0.1", "31501"),
        lambda: HeteroClient("127.0.0.1", 31501, enable_remote_h2d=1),
    ):
        with pytest.raises(TypeError):
            call()
    hbmesh.set_device(0)
    for call in (
        lambda: client.mset_d2h(["a", "b"], [good]),
        lambda: client.mset_d2h_from_multi_buffers(["a", "b"], [[1]], [[1]]),
        lambda: client.mset_d2h_from_multi_buffers(["a"], [[1, 2]], [[1]]),
        lambda: client.mset_d2h_from_multi_buffers(["a"], [[]], [[]]),
        lambda: client.mget_h2d_from_multi_buffers([], [], []),
    ):
        with pytest.raises(ValueError):
            call()
    hbmesh.set_device(None)
    for call, says in (
        (lambda: client.mset_d2h([], []), "should not be empty"),
        (lambda: client.mset_d2h(["a b"], [good]), "number 1"),
        (lambda: client.mset_d2h(["a"], [DeviceBlobList(99, good.blob_list)]), "device 99"),
        (lambda: client.mset_d2h(["a", "b"], [good, DeviceBlobList(1, good.blob_list)]), "one device"),
        (lambda: client.mget_h2d(["a"], [good], -1), "sub_timeout_ms is -1"),
        (lambda: HeteroClient("127.0.0.1", 0), "name no worker"),
    ):
        with pytest.raises(RuntimeError, match=r"^code: \[2\], msg: \[.*" + says):
            call()


def test_connection_errors(workers):
    with pytest.raises(RuntimeError, match=r"code: \[8\]"):
        HeteroClient(*workers.place(0)).exist(["a"])
    with pytest.raises(RuntimeError, match=r"code: \[37\]"):
        HeteroClient("127.0.0.1", 9).init()


def test_ds_client_and_values_of_ordinary_memory(workers):
    both = ds.DsClient(*workers.place(0))
    both.init()
    kv, hetero = both.kv(), both.hetero()
    key = kv.generate_key("kv")
    kv.set(key, "value")
    kv.set(key, b"another")  # replaces
    assert kv.get([key, f"{key}-not"]) == [b"another", None]
    assert kv.get([key], True) == ["another"] and kv.exist([key]) == [True] and hetero.exist([key]) == [True]
    with pytest.raises(RuntimeError, match=r"code: \[3\]"):
        kv.get([f"{key}-not"])
    again = kv.set_value(bytearray(b"v" * 100_000), ttl_second=3600)
    assert kv.get([again]) == [b"v" * 100_000]
    assert kv.mset([key, again], ["x", "y"], existence_opt=ExistenceOpt.NONE) == []
    with pytest.raises(RuntimeError, match=r"code: \[2004\]"):
        kv.mset([key], ["z"], existence_opt=ExistenceOpt.NX)
    with pytest.raises(RuntimeError, match="at least one byte"):
        kv.set(key, b"")
    with pytest.raises(TypeError):
        kv.set(key, 5)
    with pytest.raises(ValueError):
        kv.mset([key], [])
    assert kv.delete([key, again]) == [] and kv.health_check().is_ok() and not kv.health_check().is_error()
    assert kv.health_check().to_string() == "code: [0], msg: []"
    both.close()


def test_values_are_waited_for(workers):
    import threading

    kv, other = KVClient(*workers.place(0)), KVClient(*workers.place(1))
    kv.init(), other.init()
    key, answers = kv.generate_key("kv"), []
    waiting = threading.Thread(target=lambda: answers.extend(other.get([key], sub_timeout_ms=LONG * 1000)))
    waiting.start()
    kv.set(key, b"late")
    waiting.join(LONG)
    assert answers == [b"late"]
    kv.delete([key])
    kv.close(), other.close()


VARIABLES = ("DS_WORKER_ADDR", "DS_ENABLE_REMOTE_H2D", "YR_CONFIG_PATH")
MAKERS = (lambda: HeteroClient("", 0), KVClient, ds.DsClient)


def set_variables(monkeypatch, given):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)


def test_the_worker_may_be_named_by_the_environment(workers, tmp_path, monkeypatch):
    address = workers.addresses[0]
    config = tmp_path / "yuanrong.json"
    config.write_text(json.dumps({"worker_addr": address, "request_timeout_ms": 5000, "enable_remote_h2d": True}))
    for given in ({"DS_WORKER_ADDR": address, "DS_ENABLE_REMOTE_H2D": "1"}, {"YR_CONFIG_PATH": str(config)}):
        set_variables(monkeypatch, given)
        for make in MAKERS:
            client = make()
            client.init()
            client.close()
    config.write_text('{"worker_addr": "127.0.0.1:1", "connect_timeout_ms": "soon"}')
    for given, says in (
        ({}, "no worker is named"),
        ({"DS_WORKER_ADDR": "nonsense"}, 'DS_WORKER_ADDR "nonsense" has no port: give HOST:PORT'),
        ({"DS_WORKER_ADDR": address, "DS_ENABLE_REMOTE_H2D": "maybe"}, "DS_ENABLE_REMOTE_H2D is 'maybe'"),
        ({"YR_CONFIG_PATH": str(tmp_path / "nowhere.json")}, "can't be read"),
        ({"YR_CONFIG_PATH": str(config)}, "\"connect_timeout_ms\" in .* is 'soon'"),
    ):
        set_variables(monkeypatch, given)
        for make in MAKERS:
            with pytest.raises(RuntimeError, match=r"code: \[2\], msg: \[.*" + says):
                make()


def test_a_client_of_this_process_by_the_environment(workers, monkeypatch):
    monkeypatch.setenv("DS_WORKER_ADDR", workers.addresses[1])
    with hbmesh.Client.from_environment(request_timeout_ms=7000) as client:
        assert client.address == workers.addresses[1] and client.health_check().ready
