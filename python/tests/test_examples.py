"""Goal: the examples run as their first lines say, and each process prints OK.
Method: run them under `python -m hbmesh.sim` against two workers, in as many processes as they need.
"""

import subprocess
import sys

from conftest import LONG, PYTHON, environment


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
