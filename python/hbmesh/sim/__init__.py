"""Scripts that `import acl`, on hosts without NPUs.

`python -m hbmesh.sim SCRIPT` runs a script with an `acl` module over simulated devices. :func:`install` does the same
from code. Where the real `acl` is installed it is left alone.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType
from typing import Optional

DEVICES_VARIABLE = "HBMESH_SIM_DEVICES"
DEVICES_DEFAULT = 8


def real_acl() -> Optional[str]:
    """Where the real acl is installed, or None."""
    loaded = sys.modules.get("acl")
    if loaded is not None:
        return None if getattr(loaded, "__hbmesh_simulated__", False) else str(getattr(loaded, "__file__", "loaded"))
    found = importlib.util.find_spec("acl")
    return None if found is None else str(found.origin)


def install(devices: Optional[int] = None, force: bool = False) -> ModuleType:
    """Makes `import acl` give the simulated module, and returns it.

    Args:
        devices: how many there are; default: HBMESH_SIM_DEVICES, or 8.
        force: also where the real acl is installed.

    Raises:
        RuntimeError: the real acl is installed.
        ValueError: devices is not from 1 to 64.
    """
    real = real_acl()
    if real is not None and not force:
        raise RuntimeError(f"the real acl is installed ({real}), and left alone; force=True simulates all the same")
    from .acl import make_module

    count = devices if devices is not None else int(os.environ.get(DEVICES_VARIABLE, DEVICES_DEFAULT))
    module = make_module(count)
    sys.modules["acl"] = module
    sys.modules["acl.rt"] = module.rt
    sys.modules["acl.util"] = module.util
    return module
