"""DsClient: the clients of one worker under one roof."""

from __future__ import annotations

from .hetero_client import HeteroClient
from .kv_client import KVClient

__all__ = ["DsClient"]


class DsClient:
    """Arguments as of :class:`HeteroClient`; without host and port, the worker that DS_WORKER_ADDR or YR_CONFIG_PATH
    names."""

    def __init__(
        self,
        host: str = "",
        port: int = 0,
        connect_timeout_ms: int = 9000,
        token: str = "",
        client_public_key: str = "",
        client_private_key: str = "",
        server_public_key: str = "",
        access_key: str = "",
        secret_key: str = "",
        tenant_id: str = "",
        enable_cross_node_connection: bool = False,
        req_timeout_ms: int = 0,
        *,
        enable_exclusive_connection: bool = False,
    ) -> None:
        arguments = dict(locals())
        del arguments["self"]
        self._hetero_client = HeteroClient(**arguments)
        self._kv_client = KVClient(**arguments)

    def init(self) -> None:
        """Connects. Raises RuntimeError."""
        self._kv_client.init()
        self._hetero_client.init()

    def close(self) -> None:
        self._kv_client.close()
        self._hetero_client.close()

    def kv(self) -> KVClient:
        """The client for values in ordinary memory."""
        return self._kv_client

    def hetero(self) -> HeteroClient:
        """The client for device memory."""
        return self._hetero_client
