"""`python -m hbmesh.sim [--devices N] [--force] (SCRIPT | -m MODULE) [ARGS...]`"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from typing import List

from . import DEVICES_DEFAULT, DEVICES_VARIABLE, device_count, install, offer_to_children, real_acl


def _arguments(argv: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hbmesh.sim",
        description=(
            "Runs a script with an `acl` module over simulated devices. Where the real acl is installed it is used."
        ),
        epilog="Example: python -m hbmesh.sim python/examples/single_process.py --host 127.0.0.1 --port 31501",
    )
    parser.add_argument(
        "--devices", type=int, help=f"how many there are (default: {DEVICES_VARIABLE}, or {DEVICES_DEFAULT})"
    )
    parser.add_argument("--force", action="store_true", help="simulate also where the real acl is installed")
    parser.add_argument("-m", dest="module", metavar="MODULE", nargs=argparse.REMAINDER, help="run a module")
    parser.add_argument("script", nargs="?", help="the script; what follows is for it")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    found = parser.parse_args(argv)
    if not found.module and found.script is None:
        parser.error("name a script, or a module with -m")
    if found.devices is not None and not 1 <= found.devices <= 64:
        parser.error(f"--devices {found.devices}: there can be 1 to 64")
    if found.script is not None and not os.path.exists(found.script):
        parser.error(f"there is no script {found.script}")
    try:
        found.devices = found.devices or device_count()
    except ValueError as error:
        parser.error(str(error))
    return found


def main(argv: List[str]) -> None:
    found = _arguments(argv)
    real = real_acl()
    if real is not None and not found.force:
        print(f"hbmesh.sim: using the real acl ({real})", file=sys.stderr)
    else:
        install(found.devices, found.force)
        offer_to_children(found.devices, found.force)
    if found.module:
        sys.argv = found.module
        sys.path.insert(0, os.getcwd())
        runpy.run_module(found.module[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [found.script, *found.arguments]
        sys.path[0] = os.path.dirname(os.path.abspath(found.script))
        runpy.run_path(found.script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
