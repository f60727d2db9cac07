"""What the suites share: two workers as two hosts, clients of them, device memory with known bytes, scripts in
processes of their own, and a look for what they left behind.
"""

import errno
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hbmesh import Blob, Client, DeviceBlobList, SimDevice

PYTHON = Path(__file__).absolute().parent.parent
ROOT = PYTHON.parent
LONG = 30  # seconds that no working test waits


def environment(**more):
    """Of a child that finds the package."""
    return {**os.environ, "PYTHONPATH": str(PYTHON), **more}


def run_script(*arguments, **options):
    """Runs `python ARGUMENTS` to its end, and returns it with code, stdout and stderr."""
    env = environment(**options.pop("env", {}))
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=LONG * 2, env=env, **options
    )


class Workers:
    """`hbmesh dev`: two workers that behave as two hosts."""

    def __init__(self, *flags, env=None):
        command = ["node", str(ROOT / "dist/cli/main.js"), "dev", "--port", "0", "--json", "--devices", "4"]
        self.process = subprocess.Popen(
            [*command, "--shared_memory_size_mb", "64", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        text = ""
        for line in self.process.stdout:
            text += line
            if line.startswith("}"):
                break
        if not text.startswith("{"):
            raise RuntimeError(f"the workers did not start: {self.process.communicate()[1]}")
        self.about = json.loads(text)["workers"]
        self.addresses = [worker["workerAddress"] for worker in self.about]

    def place(self, index):
        """Host and port of a worker."""
        host, _, port = self.addresses[index].rpartition(":")
        return host, int(port)

    def flags(self, index):
        host, port = self.place(index)
        return ["--host", host, "--port", str(port)]

    def close(self):
        self.process.terminate()
        errors = self.process.communicate(timeout=LONG)[1]
        assert (self.process.returncode, errors) == (0, "")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def hbmesh(*arguments):
    """Runs a command of the product to its end; fails unless it succeeds. Returns what it printed."""
    command = ["node", str(ROOT / "dist/cli/main.js"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG * 2)
    assert done.returncode == 0, done.stderr
    return done.stdout


def free_port(host):
    """One at which nobody listens, below those that the system hands out by itself."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
                return port
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise


@pytest.fixture(scope="module")
def worker_at_ip6(tmp_path_factory):
    """Address of a worker that listens at ::1 alone."""
    address = f"[::1]:{free_port('::1')}"
    memory = ["--shared_memory_size_mb", "16", "--devices", "2"]
    logs = ["--log_dir", str(tmp_path_factory.mktemp("ip6"))]
    hbmesh("start", "-w", "--worker_address", address, *memory, *logs)
    yield address
    hbmesh("stop", "--worker_address", address, "--drain", "false", "--quiet")
    assert sockets_of([address]) == []


def sockets_of(addresses):
    """Abstract sockets that name one of these workers."""
    with open("/proc/net/unix", encoding="utf-8") as table:
        names = [line.split()[-1] for line in table if "@hbmesh" in line]
    return [name for name in names if any(address in name for address in addresses)]


@pytest.fixture(scope="session")
def workers():
    shared_before = set(os.listdir("/dev/shm"))
    started = Workers()
    yield started
    started.close()
    assert sockets_of(started.addresses) == []
    assert set(os.listdir("/dev/shm")) - shared_before == set()


@pytest.fixture(scope="session")
def first(workers):
    """A client of worker 1."""
    with Client(*workers.place(0)) as client:
        yield client


@pytest.fixture(scope="session")
def second(workers):
    """A client of worker 2: another host."""
    with Client(*workers.place(1)) as client:
        yield client


class DeviceObject:
    """Blobs of simulated device memory; byte i of blob b is a function of both and of the seed."""

    def __init__(self, device, sizes, seed=None):
        self.device = SimDevice(device)
        self.sizes = sizes
        self.pointers = [self.device.allocate(size) for size in sizes]
        self.list = DeviceBlobList(device, [Blob(*each) for each in zip(self.pointers, sizes)])
        self.fill(seed)

    def pattern(self, blob, seed):
        if seed is None:
            return bytes(self.sizes[blob])
        return bytes((seed * 31 + blob * 7 + index * 13) % 251 for index in range(self.sizes[blob]))

    def fill(self, seed=None):
        for blob, pointer in enumerate(self.pointers):
            self.device.copy_in(pointer, self.pattern(blob, seed))

    def holds(self, seed=None):
        return all(
            self.device.copy_out(pointer, self.sizes[blob]) == self.pattern(blob, seed)
            for blob, pointer in enumerate(self.pointers)
        )

    def free(self):
        for pointer in self.pointers:
            self.device.free(pointer)


@pytest.fixture
def memory():
    """Makes DeviceObjects and frees them after the test."""
    made = []

    def make(device, sizes, seed=None):
        made.append(DeviceObject(device, sizes, seed))
        return made[-1]

    yield make
    for each in made:
        each.free()


@pytest.fixture
def key(first):
    """A new key, deleted after the test."""
    name = first.generate_key("py")
    yield name
    first.delete([name])


def until(what, condition):
    """Asks again until the condition holds; a test that waits in vain ends with this name."""
    import time

    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, f"waited {LONG} s in vain until {what}"
        time.sleep(0.005)
