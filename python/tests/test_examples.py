"""Goal: the examples run as their first lines say, and each process prints OK.
Method: run them under `python -m hbmesh.sim` against two workers, in as many processes as they need.
"""

import re
import subprocess
import sys

import pytest
from conftest import LONG, PYTHON, environment, run_script


def start(name, *flags):
    command = [sys.executable, "-m", "hbmesh.sim", str(PYTHON / "examples" / name), *flags]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


def ends_well(process, said="OK\n", told=None):
    out, errors = process.communicate(told, timeout=LONG * 2)
    assert (out, errors, process.returncode) == (said, "", 0)


def test_quick_check(workers):
    ends_well(start("quick_check_set.py", *workers.flags(0)))
    ends_well(start("quick_check_get.py", *workers.flags(1), "--device", "1"))


def test_quick_check_the_other_way_round(workers):
    """The get comes first and waits."""
    getting = start("quick_check_get.py", *workers.flags(1), "--device", "1")
    ends_well(start("quick_check_set.py", *workers.flags(0)))
    ends_well(getting)


def test_publish_subscribe(workers):
    receiving = start("publish_subscribe.py", "--role", "subscribe", *workers.flags(1), "--device", "1")
    ends_well(start("publish_subscribe.py", "--role", "publish", *workers.flags(0)))
    ends_well(receiving)


def test_device_cache(workers):
    owner = start("device_cache.py", "--role", "set", *workers.flags(0))
    assert owner.stdout.readline() == "OK\n"
    for device in ("1", "2"):
        ends_well(start("device_cache.py", "--role", "get", *workers.flags(1), "--device", device))
    ends_well(owner, said="", told="\n")


def test_single_process(workers):
    ends_well(start("single_process.py", *workers.flags(0)), said="[True] [1024, 4096, 100]\nOK\n")


@pytest.mark.parametrize("name", sorted(path.name for path in (PYTHON / "examples").glob("*.py")))
def test_help_needs_no_acl(name):
    """As a user tries it first: on a host without NPUs, without python -m hbmesh.sim."""
    script = PYTHON / "examples" / name
    told = run_script(script, "--help")
    assert (told.returncode, told.stderr) == (0, "") and f"python -m hbmesh.sim {name}" in told.stdout
    given = re.findall(r"--(?:role|host|port) \S+", told.stdout[told.stdout.index("python -m hbmesh.sim") :])
    ended = run_script(script, *" ".join(given[: 3 if "--role" in told.stdout else 2]).split())
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "no module acl here: without NPUs, run it as python -m hbmesh.sim" in ended.stderr


# As published: the bytes exist only within the expression that takes their address. From 17 bytes to 557 KB, since what
# happens to freed memory depends on its size.
QUICK_SET = """
import sys, acl
from yr.datasystem.hetero_client import Blob, DeviceBlobList, HeteroClient
host, port, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
acl.init()
acl.rt.set_device(0)
client = HeteroClient(host, port)
client.init()
for number in range(rounds):
    expected_val = f"value of round {number} " * 8**(number % 6)
    blob_size = len(expected_val)
    dev_ptr, _ = acl.rt.malloc(blob_size, 0)
    acl.rt.memcpy(dev_ptr, blob_size, acl.util.bytes_to_ptr(expected_val.encode()), blob_size, 1)
    client.mset_d2h([f"{sys.argv[4]}-{number}"], [DeviceBlobList(0, [Blob(dev_ptr, blob_size)])])
    acl.rt.free(dev_ptr)
print("OK")
"""
QUICK_GET = """
import sys, acl
from yr.datasystem.hetero_client import Blob, DeviceBlobList, HeteroClient
host, port, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
acl.init()
acl.rt.set_device(1)
client = HeteroClient(host, port, enable_remote_h2d=True)
client.init()
for number in range(rounds):
    key, expected = f"{sys.argv[4]}-{number}", (f"value of round {number} " * 8**(number % 6)).encode()
    n = len(expected)
    dev_ptr, _ = acl.rt.malloc(n, 0)
    assert client.mget_h2d([key], [DeviceBlobList(1, [Blob(dev_ptr, n)])], 60000) == []
    out = bytes("0", "utf-8").zfill(n)
    acl.rt.memcpy(acl.util.bytes_to_ptr(out), n, dev_ptr, n, 2)
    assert out == expected
    client.delete([key])
print("OK")
"""


def test_quick_checks_as_they_are_published(workers, first, tmp_path):
    for name, text, place in (("set", QUICK_SET, 0), ("get", QUICK_GET, 1)):
        script = tmp_path / f"{name}.py"
        script.write_text(text)
        ended = run_script("-m", "hbmesh.sim", script, *map(str, workers.place(place)), 12, PREFIX)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "OK\n", "")


PREFIX = "quick-as-published"
