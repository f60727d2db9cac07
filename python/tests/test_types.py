"""Goal: who writes typed code against the package is told what calls give, and of wrong options.
Method: mypy, strict, over a script of a user; what it reveals, and what it refuses.
"""

import subprocess
import sys

import pytest
from conftest import LONG, PYTHON, environment

pytest.importorskip("mypy")

SCRIPT = """
from typing import List

from hbmesh import AsyncClient, Client, DeviceBlobList, SimDevice
from yr.datasystem.hetero_client import HeteroClient


def block() -> List[bool]:
    lists = [DeviceBlobList.of(0, SimDevice(0).buffer(8))]
    with Client("127.0.0.1", 31501) as client:
        reveal_type(client)
        reveal_type(client.mset_d2h(["a"], lists).raise_for_failures())
        reveal_type(client.mset_d2h_async(["a"], lists).get())
        reveal_type(client.exist(["a"]).presences)
        client.mset_d2h(["a"], lists, ttl="soon")
        return client.delete(["a"]).existed


async def main() -> None:
    async with AsyncClient.from_environment() as client:
        reveal_type(client)
        reveal_type(await client.get_meta_info(["a"]))
        for future in await client.dev_publish(["a"], []):
            reveal_type(await future)
        await client.mset_d2h(["a"], [], wrong=1)


reveal_type(HeteroClient("127.0.0.1", 1).dev_publish([], []))
reveal_type(HeteroClient("127.0.0.1", 1).batch_is_exist([]))
HeteroClient(1, 1)
"""
SAID = [
    'note: Revealed type is "hbmesh.client.Client"',
    'note: Revealed type is "hbmesh.results.WriteResult"',
    'note: Revealed type is "hbmesh.results.WriteResult"',
    'note: Revealed type is "builtins.list[builtins.str]"',
    'error: Unexpected keyword argument "ttl" for "mset_d2h" of "Client"',
    'note: Revealed type is "hbmesh.aio.AsyncClient"',
    'note: Revealed type is "hbmesh.results.MetaResult"',
    'note: Revealed type is "hbmesh.results.BatchResult"',
    'error: Unexpected keyword argument "wrong" for "mset_d2h" of "AsyncClient"',
    'note: Revealed type is "builtins.list[yr.datasystem.hetero_client.Future]"',
    'note: Revealed type is "builtins.list[builtins.int]"',
    'error: Argument 1 to "HeteroClient" has incompatible type "int"; expected "str"',
]


def test_a_users_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    config = tmp_path / "mypy.ini"  # without what takes long and is not the package's
    config.write_text("[mypy]\n[mypy-numpy.*,acl.*]\nfollow_imports = skip\nignore_missing_imports = true\n")
    options = [
        "--strict",
        "--namespace-packages",
        "--explicit-package-bases",
        "--follow-imports=silent",
        f"--config-file={config}",
    ]
    command = [sys.executable, "-m", "mypy", *options, f"--cache-dir={tmp_path}/cache", "script.py"]
    env = environment(MYPYPATH=str(PYTHON))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LONG * 4, cwd=tmp_path, env=env)
    lines = [line.split(": ", 1)[1] for line in ended.stdout.splitlines() if line.startswith("script.py:")]
    lines = [line for line in lines if "defined here" not in line]
    assert [line.startswith(said) for line, said in zip(lines, SAID)] == [True] * len(SAID), ended.stdout + ended.stderr
    assert len(lines) == len(SAID)
