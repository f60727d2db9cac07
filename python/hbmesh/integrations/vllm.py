"""HbmeshConnector: a KV connector for vLLM (KVConnectorBase_V1).

    vllm serve MODEL --kv-transfer-config '{"kv_connector": "HbmeshConnector", "kv_role": "kv_both",
        "kv_connector_module_path": "hbmesh.integrations.vllm", "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"address": "127.0.0.1:31501"}}'

Importing this module does not import vLLM; naming one of its classes does.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_NAMES = ("BlockTransfer", "HbmeshConnector", "HbmeshConnectorMetadata")


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("hbmesh.integrations.vllm_connector"), name)
