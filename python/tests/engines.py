"""Stand-ins for what hbmesh.integrations imports of vLLM and LMCache: base classes with the published names, arguments
and defaults, and no more behaviour than connectors rely on. Installed into sys.modules, where the engines aren't.
"""

import abc
import contextlib
import enum
import sys
import types


@contextlib.contextmanager
def installed(modules):
    """These modules may be imported within the block; the connectors are imported anew with them."""
    before = dict(sys.modules)
    for name in list(sys.modules):
        if name.startswith("hbmesh.integrations.") and name.endswith("_connector"):
            del sys.modules[name]
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in list(sys.modules):
            if name not in before:
                del sys.modules[name]
        sys.modules.update({name: before[name] for name in modules if name in before})


def module(name, **contents):
    made = types.ModuleType(name)
    made.__path__ = []
    vars(made).update(contents)
    return made


# ---- vLLM: vllm/distributed/kv_transfer/kv_connector/v1/base.py ------------------------------------------------------


class KVConnectorRole(enum.Enum):
    SCHEDULER = 0
    WORKER = 1


class KVConnectorMetadata(abc.ABC):  # noqa: B024
    pass


class KVConnectorBase_V1(abc.ABC):
    @property
    def requires_kv_delivery(self):
        return self._kv_transfer_config.is_kv_producer

    def __init__(self, vllm_config, role, kv_cache_config):
        self._connector_metadata = None
        self._vllm_config = vllm_config
        self._kv_transfer_config = vllm_config.kv_transfer_config
        self._kv_cache_config = kv_cache_config
        self._role = role

    @property
    def role(self):
        return self._role

    def bind_connector_metadata(self, connector_metadata):
        self._connector_metadata = connector_metadata

    def clear_connector_metadata(self):
        self._connector_metadata = None

    def _get_connector_metadata(self):
        assert self._connector_metadata is not None
        return self._connector_metadata

    def register_kv_caches(self, kv_caches):
        return

    @abc.abstractmethod
    def start_load_kv(self, forward_context, **kwargs): ...

    @abc.abstractmethod
    def wait_for_layer_load(self, layer_name): ...

    @abc.abstractmethod
    def save_kv_layer(self, layer_name, kv_layer, attn_metadata, **kwargs): ...

    @abc.abstractmethod
    def wait_for_save(self): ...

    def get_finished(self, finished_req_ids):
        return None, None

    def get_block_ids_with_load_errors(self):
        return set()

    def shutdown(self):
        return None

    @abc.abstractmethod
    def get_num_new_matched_tokens(self, request, num_computed_tokens): ...

    @abc.abstractmethod
    def update_state_after_alloc(self, request, blocks, num_external_tokens): ...

    @abc.abstractmethod
    def build_connector_meta(self, scheduler_output): ...

    def request_finished(self, request, block_ids):
        return False, None

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config):
        return False


def vllm_modules(rank=0):
    base = "vllm.distributed.kv_transfer.kv_connector.v1"
    names = ["vllm", "vllm.distributed.kv_transfer", "vllm.distributed.kv_transfer.kv_connector", base]
    return {
        **{name: module(name) for name in names},
        "vllm.distributed": module("vllm.distributed", get_tensor_model_parallel_rank=lambda: rank),
        f"{base}.base": module(
            f"{base}.base",
            KVConnectorBase_V1=KVConnectorBase_V1,
            KVConnectorMetadata=KVConnectorMetadata,
            KVConnectorRole=KVConnectorRole,
        ),
    }


# ---- LMCache: lmcache/v1/storage_backend/connector -------------------------------------------------------------------


class RemoteConnector(metaclass=abc.ABCMeta):
    """As of LMCache 0.5.6."""

    def __init__(self, config, metadata):
        assert metadata is not None
        self.save_chunk_meta = True
        self.config = config

    @abc.abstractmethod
    async def exists(self, key): ...

    @abc.abstractmethod
    def exists_sync(self, key): ...

    @abc.abstractmethod
    async def get(self, key): ...

    @abc.abstractmethod
    async def put(self, key, memory_obj): ...

    @abc.abstractmethod
    async def list(self): ...

    @abc.abstractmethod
    async def close(self): ...

    def support_ping(self):
        return False

    async def ping(self):
        raise NotImplementedError

    def support_batched_get(self):
        return False

    async def batched_get(self, keys):
        raise NotImplementedError

    def support_batched_put(self):
        return False

    async def batched_put(self, keys, memory_objs):
        raise NotImplementedError

    def support_batched_async_contains(self):
        return False

    async def batched_async_contains(self, lookup_id, keys, pin=False):
        raise NotImplementedError

    def support_batched_get_non_blocking(self):
        return False

    async def batched_get_non_blocking(self, lookup_id, keys):
        raise NotImplementedError

    def remove_sync(self, key):
        raise NotImplementedError

    def batched_contains(self, keys):
        raise NotImplementedError

    def support_batched_contains(self):
        return False


class OlderRemoteConnector(RemoteConnector):
    """As of LMCache 0.3.9: no constructor, and another batched_contains."""

    __init__ = object.__init__

    def batched_contains(self, keys, stop_after_first_not_exits=True):
        raise NotImplementedError


class ConnectorContext:
    def __init__(self, url, loop, local_cpu_backend, config, metadata, plugin_name=None):
        self.url = url
        self.loop = loop
        self.local_cpu_backend = local_cpu_backend
        self.config = config
        self.metadata = metadata
        self.plugin_name = plugin_name


class ConnectorAdapter(abc.ABC):
    def __init__(self, schema=""):
        self.schema = schema

    def can_parse(self, url):
        return self.schema != "" and url.startswith(self.schema)

    @abc.abstractmethod
    def create_connector(self, context): ...


class MemoryFormat(enum.Enum):
    UNDEFINED = 0
    KV_2LTD = 1
    KV_MLA_FMT = 4


def lmcache_modules(base_class=RemoteConnector):
    base = "lmcache.v1.storage_backend.connector"
    return {
        **{name: module(name) for name in ("lmcache", "lmcache.v1", "lmcache.v1.storage_backend")},
        base: module(base, ConnectorAdapter=ConnectorAdapter, ConnectorContext=ConnectorContext),
        f"{base}.base_connector": module(f"{base}.base_connector", RemoteConnector=base_class),
        "lmcache.v1.memory_management": module("lmcache.v1.memory_management", MemoryFormat=MemoryFormat),
        "torch": module("torch", Size=tuple, bfloat16="torch.bfloat16", uint8="torch.uint8"),
    }


def same_arguments(ours, theirs):
    """Methods of a connector that take other arguments than those of its base class."""
    import inspect

    def usual(function):
        return [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()]

    return [
        name
        for name in dir(theirs)
        if callable(getattr(theirs, name))
        and not name.startswith("__")
        and usual(getattr(ours, name)) != usual(getattr(theirs, name))
    ]
