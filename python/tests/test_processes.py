"""Goal: forks are handled, and an interpreter that ends leaves nothing behind, however it ends.
Method: scripts in processes of their own; the worker's sidecar and the kernel's tables are looked at afterwards.
"""

import os
import signal
import subprocess
import sys

import pytest
from conftest import LONG, environment, run_script, sockets_of, until

import hbmesh
from hbmesh import Client, StatusCode

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
child = os.fork()
if child == 0:
    for call in (lambda: client.exist(["a"]), client.connect, lambda: future.get(0), lambda: ticket.layer(0)):
        try:
            call()
        except hbmesh.NotSupportedError as error:
            assert "before the process forked" in str(error), error
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


def test_interrupting_a_script_ends_it(workers):
    """Ctrl-C while a call waits in the library: it ends with its time, then the interpreter raises."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PRELUDE
            + """
try:
    print("waiting", flush=True)
    client.mget_h2d(["never"], [DeviceBlobList.of(0, array)], timeout_ms=300)
    import time; time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
""",
            *map(str, workers.place(0)),
        ],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout.readline() == b"waiting\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=LONG)[0] == b"interrupted\n"
    assert process.returncode == 0


def test_a_worker_that_dies_ends_calls_and_init_connects_anew(memory):
    from conftest import Workers

    own = Workers("--workers", "1")
    client = Client(*own.place(0)).connect()
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
    client.close()
    own.close()
