"""The sidecar that comes with the wheel: `hbmesh-sidecar` on the PATH becomes it.

A worker is a control process (Node) and this sidecar; the control process starts it itself. Where the native parts were
not built, point the control process at those of the wheel: HBMESH_NATIVE_DIR is the folder that
`python -m hbmesh.sidecar --where` prints. They bring the libraries that not every machine has.
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
    os.execv(program, [NAME, *sys.argv[1:]])


if __name__ == "__main__":
    main()
