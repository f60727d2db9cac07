"""The sidecar that comes with the wheel: `hbmesh-sidecar` on the PATH starts it, with the libraries that it needs.

A worker is a control process (Node) and this sidecar; the control process starts it itself. On a host that has only the
wheel, point the control process's HBMESH_NATIVE_DIR at the folder that `python -m hbmesh.sidecar --where` prints.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

FOLDER = Path(__file__).resolve().parent / "lib"
NAME = "hbmesh-sidecar"


def main() -> NoReturn:
    """Becomes the sidecar, with this process's arguments."""
    if sys.argv[1:] == ["--where"]:
        print(FOLDER)
        raise SystemExit(0)
    program = FOLDER / NAME
    if not program.exists():
        raise SystemExit(f"{program} is not there: this is a checkout, whose sidecar is in build/Release")
    path = os.environ.get("LD_LIBRARY_PATH")
    libraries = str(FOLDER) if not path else f"{FOLDER}:{path}"
    os.execve(program, [NAME, *sys.argv[1:]], {**os.environ, "LD_LIBRARY_PATH": libraries})


if __name__ == "__main__":
    main()
