"""Goal: forks are handled, and an interpreter that ends leaves nothing behind, however it ends.
Method: scripts in processes of their own; the worker's sidecar and the kernel's tables are looked at afterwards.
"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LONG, Workers, environment, run_script, sockets_of, until

import hbmesh
from hbmesh import Client, StatusCode
from hbmesh.host import HostObjects, SimMemory

PRELUDE = """
import os, sys, hbmesh
from hbmesh import Client, DeviceBlobList, SimDevice
host, port = sys.argv[1], int(sys.argv[2])
client = Client(host, port).connect()
array = SimDevice(0).buffer(4096)
"""


def run(workers, body, *more):
    # From Python 3.12 on, a fork beside threads (the library's) warns.
    return run_script("-W", "ignore::DeprecationWarning", "-c", PRELUDE + body, *map(str, workers.place(0)), *more)


def test_a_client_from_before_a_fork_is_refused_in_the_child(workers):
    ended = run(
        workers,
        """
future = client.mget_h2d_async(["never"], [DeviceBlobList.of(0, array)], timeout_ms=1_800_000)
ticket = client.reserve_layers([DeviceBlobList.of(0, array)])
import asyncio, yr.datasystem
old, other = yr.datasystem.HeteroClient(host, port), hbmesh.AsyncClient.over(client)
old.init()
child = os.fork()
if child == 0:
    for call in (
        lambda: client.exist(["a"]), client.connect, lambda: future.get(0), lambda: future.done,
        lambda: ticket.layer(0),
        lambda: asyncio.run(other.exist(["a"])), lambda: old.exist(["a"]), old.init,
    ):
        try:
            call()
        except hbmesh.HbmeshError as error:
            assert error.code == 36 and "before the process forked" in str(error), error
        else:
            os._exit(1)
    client.close()
    with Client(host, port) as mine:  # one of its own works, with memory of its own
        piece = SimDevice(0).buffer(64)
        assert mine.mset_d2h(["of-the-child"], [DeviceBlobList.of(0, piece)])
        assert mine.delete(["of-the-child"]).existed == [True]
    del client, future, ticket, array
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert client.exist(["a"]).presences == ["MISS"]  # the parent's session is untouched
assert not future.done
print("parent goes on")
""",
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("parent goes on\n", "", 0)


def test_forks_beside_busy_threads(workers):
    """Children that are made in the middle of other threads' calls, as by multiprocessing, work with clients and memory
    of their own; none inherits a lock that nobody lets go."""
    ended = run(
        workers,
        """
import signal, threading
stop = threading.Event()
def busy(number):
    while not stop.is_set():
        piece = SimDevice(number % 4).buffer(512)
        client.mset_d2h([f"busy-{number}"], [DeviceBlobList.of(number % 4, piece)], ttl_seconds=60)
        client.delete([f"busy-{number}"])
threads = [threading.Thread(target=busy, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
for turn in range(12):
    child = os.fork()
    if child == 0:
        signal.alarm(50)
        with Client(host, port) as mine:
            piece = SimDevice(0).buffer(64)
            mine.mset_d2h([f"child-{turn}"], [DeviceBlobList.of(0, piece)]).raise_for_failures()
            mine.delete([f"child-{turn}"]).raise_for_failures()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
stop.set()
for thread in threads:
    thread.join()
print("all children worked")
""",
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("all children worked\n", "", 0)


def test_programs_that_a_script_starts_inherit_nothing(workers):
    """Every descriptor of the library closes with exec: a program that lives on holds no session and no memory."""
    ended = run(
        workers,
        """
import fcntl
client.mset_d2h(["exec"], [DeviceBlobList.of(0, array)], ttl_seconds=60)
own = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]
names = {}
for fd in own:
    try:
        names[os.readlink(f"/proc/self/fd/{fd}")] = fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    except OSError:
        pass  # that of the listing
assert any("memfd" in name for name in names) and any("socket" in name for name in names), names
print([name for name, closes in names.items() if not closes])
""",
    )
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_the_parents_end_is_seen_while_its_child_lives(workers, second, memory):
    """A publisher forks and dies; the child sleeps on. The subscriber is told at once all the same."""
    key = second.generate_key("fork")
    target = memory(1, [4096])
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PRELUDE
            + """
client.dev_publish([sys.argv[3]], [DeviceBlobList.of(0, array)])
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print("published", flush=True)
os.kill(os.getpid(), 9)
""",
            *map(str, workers.place(0)),
            key,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    try:
        assert process.stdout.readline() == b"published\n"
        assert process.wait(LONG) == -signal.SIGKILL
        until("the key is gone", lambda: second.exist([key]).presences == ["MISS"])
        (received,) = second.dev_subscribe([key], [target.list], timeout_ms=20)
        with pytest.raises(hbmesh.FutureTimeoutError):
            received.get(LONG * 1000)
    finally:
        process.stdin.close()
        process.stdout.close()


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("", 0),
        ("client.close()", 0),
        ("raise SystemExit(3)", 3),
        ("1 / 0", 1),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), 9)", -9),
        ("import threading; threading.Thread(target=wait, daemon=True).start()", 0),
        ("import faulthandler; sys.modules['leak'] = (client, f, array)", 0),
    ],
)
def test_an_interpreter_that_ends_leaves_nothing_behind(workers, how, code):
    sessions = health_of(workers)
    ended = run(
        workers,
        f"""
f = client.mget_h2d_async(["never"], [DeviceBlobList.of(0, array)], timeout_ms=1_800_000)
(s,) = client.dev_subscribe(["never-published"], [DeviceBlobList.of(0, array)], timeout_ms=1_800_000)
def wait():
    try:
        f.get(1_800_000)
    except hbmesh.ShuttingDownError:
        pass
print("here", flush=True)
{how}
""",
    )
    assert (ended.stdout, ended.returncode) == ("here\n", code)
    assert "Traceback" not in ended.stderr or how == "1 / 0"
    until("the worker forgot the session", lambda: health_of(workers) == sessions)
    assert [name for name in os.listdir("/dev/shm") if "hbmesh" in name] == []


def health_of(workers):
    """Sockets of sessions with worker 1 that are open now."""
    return len(sockets_of([workers.addresses[0]]))


WAITS = {
    "a get": "client.mget_h2d(['never'], lists, timeout_ms=1_800_000)",
    "a get of plain numbers": (
        "client.mget_h2d_from_multi_buffers(['never'], [[array.pointer]], [[4096]], device_index=0, "
        "timeout_ms=1_800_000)"
    ),
    "a get of the device cache": "client.dev_mget(['never'], lists, timeout_ms=1_800_000)",
    "a future": "client.dev_subscribe(['never'], lists, timeout_ms=1_800_000)[0].get(1_800_000)",
    "a layer": "client.reserve_layers(lists).layer(0, 1_800_000)",
    "all layers": "client.reserve_layers(lists).all(1_800_000)",
    "yr.datasystem": "old.mget_h2d(['never'], [yr.datasystem.DeviceBlobList(0, blobs)], 1_800_000)",
    "asyncio": "asyncio.run(waiting())",
}


@pytest.mark.parametrize("what", WAITS)
def test_interrupting_a_script_ends_it(workers, what):
    """Ctrl-C while a call waits for what never comes: it ends at once, and the client can be used on."""
    body = f"""
import asyncio, yr.datasystem
lists = [DeviceBlobList.of(0, array)]
blobs = [yr.datasystem.Blob(array.pointer, 4096)]
old = yr.datasystem.HeteroClient(host, port)
old.init()
async def waiting():
    async with hbmesh.AsyncClient(host, port) as other:
        await other.mget_h2d(["never"], lists, timeout_ms=1_800_000)
try:
    print("waiting", flush=True)
    {WAITS[what]}
except KeyboardInterrupt:
    print("interrupted", client.exist(["never"]).presences, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + body, *map(str, workers.place(0))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout.readline() == b"waiting\n"
    # Where it sleeps: in poll or epoll, which signals end, and not within the library.
    until("it waits", lambda: sleeps_in_poll(process.pid))
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=LONG)
    assert (out, errors, process.returncode) == (b"interrupted ['MISS']\n", b"", 0)


def test_a_signals_handler_may_wait_for_the_same_future(workers, first, memory):
    """The handler's wait is over first; the one that it interrupted still learns of the end."""
    body = """
import signal
(future,) = client.dev_subscribe([sys.argv[3]], [DeviceBlobList.of(1, SimDevice(1).buffer(4096))])
def handler(number, frame):
    try:
        future.get(1)
    except hbmesh.FutureTimeoutError:
        print("not yet", flush=True)
signal.signal(signal.SIGUSR1, handler)
print("waiting", flush=True)
print(future.get(50_000).bytes, flush=True)
"""
    key = first.generate_key("signal")
    command = [sys.executable, "-c", PRELUDE + body, *map(str, workers.place(1)), key]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdout.readline() == b"waiting\n"
    until("it waits", lambda: sleeps_in_poll(process.pid))
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == b"not yet\n"
    (sent,) = first.dev_publish([key], [memory(0, [4096]).list])
    assert sent.get(LONG * 1000)
    out, errors = process.communicate(timeout=LONG)
    assert (out, errors, process.returncode) == (b"[4096]\n", b"", 0)


def sleeps_in_poll(pid):
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    where = Path(f"/proc/{pid}/wchan").read_text()
    return state == "S" and ("poll" in where or where == "0")  # some kernels don't tell


class CountedMemory(SimMemory):
    def __init__(self, allocated, freed):
        self.allocated, self.freed = allocated, freed

    def allocate(self, device_index, size):
        pointer = super().allocate(device_index, size)
        self.allocated[len(self.allocated) + 1] = size
        return pointer

    def free(self, pointer):
        self.freed.append(pointer)
        super().free(pointer)


def test_a_worker_that_hangs_is_given_up(memory):
    """Its sidecar is stopped: calls end after the request timeout and what it may take to stop, in every manner of
    waiting, and say that the memory may be in use."""
    piece = memory(0, [64])

    async def awaited(call):
        return await call(hbmesh.AsyncClient.over(client))

    with Workers("--workers", "1") as own, Client(*own.place(0), request_timeout_ms=200) as client:
        assert client.exist(["a"]).presences == ["MISS"]
        client.pre_register_device_memory(piece.pointers, piece.sizes)
        allocated, freed = {}, []
        objects = HostObjects(client)
        objects._memory = CountedMemory(allocated, freed)
        pid = own.about[0]["sidecarPid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            for call in (
                lambda: client.exist(["a"]),
                lambda: client.mget_h2d(["a"], [piece.list], timeout_ms=1),
                lambda: asyncio.run(awaited(lambda other: other.exist(["a"]))),
                lambda: asyncio.run(awaited(lambda other: other.mget_h2d(["a"], [piece.list], timeout_ms=1))),
            ):
                says = r"waited 20[01] ms for worker .* did not confirm within 2000 ms"
                with pytest.raises(hbmesh.DeadlineExceededError, match=says) as failure:
                    call()
                assert failure.value.code == StatusCode.WORKER_TIMEOUT
            # CancelledError would say that the memory is free.
            with pytest.raises(hbmesh.DeadlineExceededError, match="a call was cancelled.*not confirm within 2000 ms"):
                asyncio.run(cancelled(client, piece))
            with pytest.raises(hbmesh.DeadlineExceededError, match="not confirm within 2000 ms"):
                objects.put(["a"], [[b"bytes"]])
            assert allocated == {1: 5} and not freed  # the buffer is the sidecar's still
        finally:
            os.kill(pid, signal.SIGCONT)
        until("the put has ended, and its buffer is free", lambda: client.exist(["b"]) is not None and len(freed) == 1)


async def cancelled(client, piece):
    task = asyncio.create_task(hbmesh.AsyncClient.over(client).mget_h2d(["a"], [piece.list], timeout_ms=1_800_000))
    await asyncio.sleep(0)
    task.cancel()
    await task


def test_a_worker_that_dies_ends_calls_and_init_connects_anew(memory):
    with Workers("--workers", "1") as own, Client(*own.place(0)) as client:
        future = client.mget_h2d_async(["never"], [memory(0, [64]).list], timeout_ms=1_800_000)
        os.kill(own.about[0]["sidecarPid"], signal.SIGKILL)
        with pytest.raises(hbmesh.DisconnectedError) as failure:
            future.get(LONG * 1000)
        assert failure.value.code == StatusCode.CLIENT_WORKER_DISCONNECT

        def works():
            try:
                return client.connect().exist(["a"]).presences == ["MISS"]
            except hbmesh.HbmeshError:
                return False

        until("the worker has a new sidecar", works)
