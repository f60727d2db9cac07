"""Scripts that `import acl`, on hosts without NPUs.

`python -m hbmesh.sim SCRIPT` runs a script with an `acl` module over simulated devices; processes that the script
starts have it too. :func:`install` does the same from code, for one process. Where the real `acl` is installed it is
left alone.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType
from typing import Optional

DEVICES_VARIABLE = "HBMESH_SIM_DEVICES"
DEVICES_DEFAULT = 8
# On the path of processes that a script starts; has an acl.py.
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "path")


def real_acl() -> Optional[str]:
    """Where the real acl is installed, or None."""
    loaded = sys.modules.get("acl")
    if loaded is not None:
        return None if getattr(loaded, "__hbmesh_simulated__", False) else str(getattr(loaded, "__file__", "loaded"))
    found = importlib.util.find_spec("acl")
    return None if found is None or found.origin == os.path.join(FOLDER, "acl.py") else str(found.origin)


def offer_to_children(devices: int, before_others: bool) -> None:
    """Processes that this one starts find the simulated acl: by the path that is handed to them, or the environment's.

    Args:
        devices: how many there are.
        before_others: before a real acl, too.
    """
    os.environ[DEVICES_VARIABLE] = str(devices)
    path = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each not in ("", FOLDER)]
    os.environ["PYTHONPATH"] = os.pathsep.join([FOLDER, *path] if before_others else [*path, FOLDER])
    sys.path.insert(1 if before_others else len(sys.path), FOLDER)


def device_count() -> int:
    """Devices that the environment asks for. Raises ValueError."""
    asked = os.environ.get(DEVICES_VARIABLE) or str(DEVICES_DEFAULT)
    if not asked.isdecimal() or not 1 <= int(asked) <= 64:
        raise ValueError(f"{DEVICES_VARIABLE} is {asked!r}: there can be 1 to 64 devices")
    return int(asked)


def install(devices: Optional[int] = None, force: bool = False) -> ModuleType:
    """Makes `import acl` give the simulated module, and returns it.

    Args:
        devices: how many there are; default: HBMESH_SIM_DEVICES, or 8.
        force: also where the real acl is installed.

    Raises:
        RuntimeError: the real acl is installed.
        ValueError: devices, or HBMESH_SIM_DEVICES, is not a number from 1 to 64.
    """
    real = real_acl()
    if real is not None and not force:
        raise RuntimeError(f"the real acl is installed ({real}), and left alone; force=True simulates all the same")
    from .acl import make_module

    module = make_module(device_count() if devices is None else devices)
    sys.modules["acl"] = module
    sys.modules["acl.rt"] = module.rt
    sys.modules["acl.util"] = module.util
    return module
