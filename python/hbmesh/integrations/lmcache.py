"""A remote storage plugin for LMCache: ``hbmesh://IP:PORT``.

    remote_storage_plugins: ["hbmesh"]
    extra_config:
      remote_storage_plugin.hbmesh.module_path: hbmesh.integrations.lmcache
      remote_storage_plugin.hbmesh.class_name: HbmeshConnectorAdapter
      remote_storage_plugin.hbmesh.address: 127.0.0.1:31501

or, where LMCache still takes it, ``remote_url: "hbmesh://127.0.0.1:31501"``. Importing this module does not import
LMCache; naming one of its classes does.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_NAMES = ("HbmeshConnectorAdapter", "HbmeshRemoteConnector")


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("hbmesh.integrations.lmcache_connector"), name)
