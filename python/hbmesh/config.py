"""Which worker to use, as told by the environment: what users of other stores have in their scripts.

``DS_WORKER_ADDR`` is ``HOST:PORT``; ``DS_ENABLE_REMOTE_H2D`` is 0 or 1; ``YR_CONFIG_PATH`` names a JSON file with
``worker_addr``, ``enable_remote_h2d``, ``connect_timeout_ms`` and ``request_timeout_ms``. The variables win over the
file.
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict, NamedTuple, Tuple

from ._address import parse_address

_YES = ("1", "true", "yes", "on")
_NO = ("", "0", "false", "no", "off")


class WorkerConfig(NamedTuple):
    """Attributes as in :class:`hbmesh.Client`; times in milliseconds, 0: the default.

    Attributes:
        host: of the worker on this machine.
        port: of it.
        connect_timeout_ms: how long connecting may take.
        request_timeout_ms: how long a call may take.
        enable_remote_h2d: known from other systems; hbmesh always offers gets from another node.
    """

    host: str
    port: int
    connect_timeout_ms: int = 9000
    request_timeout_ms: int = 0
    enable_remote_h2d: bool = False


def split_address(address: str, what: str = "worker address") -> Tuple[str, int]:
    """Host and port of ``HOST:PORT``, of IPv6 ``[HOST]:PORT``. Raises ValueError naming `what` and why it is none."""
    host, port = parse_address(address, what)
    if port == 0:
        raise ValueError(f'{what} "{address}" has port 0, where no worker is: give its port, usually 31501')
    return host, port


def from_environment() -> WorkerConfig:
    """Reads the variables above.

    Raises:
        ValueError: none of them names a worker, or what they say is not of this form; naming the variable or file.
    """
    settings = _read_file(os.environ.get("YR_CONFIG_PATH", ""))
    given = os.environ.get("DS_WORKER_ADDR")
    address = given or settings.get("worker_addr") or ""
    if not isinstance(address, str) or address == "":
        raise ValueError(
            "no worker is named: give host and port, or set DS_WORKER_ADDR=HOST:PORT, or YR_CONFIG_PATH to a JSON file "
            'that has "worker_addr"'
        )
    source = "DS_WORKER_ADDR" if given else f'"worker_addr" in {os.environ["YR_CONFIG_PATH"]}'
    # Scripts that read it from a file leave the end of its line.
    host, port = split_address(address.strip(), source)
    remote = os.environ.get("DS_ENABLE_REMOTE_H2D")
    if remote is not None and remote.lower() not in _YES + _NO:
        raise ValueError(f"DS_ENABLE_REMOTE_H2D is {remote!r}: use 0 or 1")
    enabled = bool(settings.get("enable_remote_h2d", False)) if remote is None else remote.lower() in _YES
    return WorkerConfig(
        host,
        port,
        _milliseconds(settings, "connect_timeout_ms", 9000),
        _milliseconds(settings, "request_timeout_ms", 0),
        enabled,
    )


def _milliseconds(settings: Dict[str, Any], name: str, default: int) -> int:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f'"{name}" in {os.environ["YR_CONFIG_PATH"]} is {value!r}: give whole milliseconds')
    return int(value)


def _read_file(path: str) -> Dict[str, Any]:
    if path == "":
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"YR_CONFIG_PATH names {path}, which can't be read as JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f'{path} (YR_CONFIG_PATH) must be a JSON object with "worker_addr"')
    return settings
