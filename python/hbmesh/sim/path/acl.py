"""What `import acl` finds in processes that a script under `python -m hbmesh.sim` starts, since this folder is on their
path: the simulated module takes this one's place."""

from __future__ import annotations

from hbmesh.sim import install

install(force=True)
