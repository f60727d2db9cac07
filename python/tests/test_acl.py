"""Goal: scripts that import acl run without NPUs, and the real acl is never put aside.
Method: the simulated module's calls and codes; `python -m hbmesh.sim` with small scripts, also beside a real acl.
"""

import threading
import weakref

import pytest
from conftest import run_script

from hbmesh import current_device, sim
from hbmesh.host import AclMemory
from hbmesh.sim.acl import make_module


@pytest.fixture
def acl():
    module = make_module(4)
    assert module.init() == 0
    yield module
    assert module.finalize() == 0


def test_devices_belong_to_threads(acl):
    assert acl.rt.get_device_count() == (4, 0)
    assert acl.rt.get_device() == (-1, 107002) and acl.rt.malloc(8, 0) == (0, 107002)
    assert acl.rt.set_device(4) == 107001 and acl.rt.set_device(2) == 0 and acl.rt.get_device() == (2, 0)
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(acl.rt.get_device()))
    thread.start()
    thread.join()
    assert elsewhere == [(-1, 107002)]
    context, code = acl.rt.create_context(1)
    assert code == 0 and acl.rt.get_device() == (1, 0) and acl.rt.set_device(3) == 0
    assert acl.rt.set_context(context) == 0 and acl.rt.get_device() == (1, 0)
    assert acl.rt.destroy_context(context) == 0 and acl.rt.set_context(context) == 107000
    assert acl.rt.reset_device(1) == 0 and acl.rt.get_device()[1] == 107002


def test_memory_in_every_direction(acl):
    acl.rt.set_device(0)
    one, two = acl.rt.malloc(16, 0)[0], acl.rt.malloc(16, 0)[0]
    host, other = acl.rt.malloc_host(16)[0], acl.rt.malloc_host(16)[0]
    value = b"0123456789abcdef"
    assert acl.rt.memcpy(host, 16, acl.util.bytes_to_ptr(value), 16, 0) == 0
    assert acl.rt.memcpy(one, 16, host, 16, 1) == 0
    assert acl.rt.memcpy(two, 16, one, 16, 3) == 0
    assert acl.rt.memset(two, 16, 0x78, 4) == 0
    stream = acl.rt.create_stream()[0]
    assert acl.rt.memcpy_async(other, 16, two, 16, 2, stream) == 0 and acl.rt.synchronize_stream(stream) == 0
    assert acl.util.ptr_to_bytes(other, 16) == b"xxxx" + value[4:]
    numpy = pytest.importorskip("numpy")
    array = acl.util.ptr_to_numpy(other, (2, 8), 2)
    assert array.shape == (2, 8) and acl.util.numpy_to_ptr(array) == other and array.dtype == numpy.uint8
    for code in (
        acl.rt.memcpy(one, 8, host, 16, 1),  # more than there is room
        acl.rt.memcpy(one, 1 << 20, host, 1 << 20, 2),
        acl.rt.memcpy(host, 16, other, 16, 1),  # no device memory
        acl.rt.memcpy(one, 16, two, 16, 9),
        acl.rt.free(one + 8),
    ):
        assert code == 107000
    assert acl.rt.malloc(0, 0) == (0, 107000) and acl.rt.malloc(1 << 50, 0) == (0, 207001)
    assert [acl.rt.free(each) for each in (one, two)] == [0, 0] and acl.rt.free(one) == 107000
    assert [acl.rt.free_host(each) for each in (host, other)] == [0, 0]
    with pytest.raises(TypeError):
        acl.util.bytes_to_ptr("text")


def test_temporaries_live_a_while(acl, monkeypatch):
    """Their address is used in the expression that makes them. Bounded by number and by bytes, for each thread."""
    from hbmesh.sim.acl import _Lately

    alive = set()

    class Counted(bytes):
        def __del__(self):
            alive.discard(self.number)

    def address(number, size=8):
        data = Counted(size)
        data.number = number
        alive.add(number)
        return acl.util.bytes_to_ptr(data)

    seen = []

    def work():
        for number in range(_Lately.COUNT_MAX + 44):
            address(number)
        seen.append(set(alive))
        monkeypatch.setattr(_Lately, "BYTES_MAX", 100)
        address(1000, 60), address(1001, 40)
        seen.append(set(alive))
        address(1002, 1000)  # larger than the limit: the last two are kept all the same
        seen.append(set(alive))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [set(range(44, _Lately.COUNT_MAX + 44)), {1000, 1001}, {1001, 1002}]
    assert alive == set()  # they go with their thread
    numpy = pytest.importorskip("numpy")
    array = numpy.frombuffer(b"12345678", dtype="u1").copy()
    kept = weakref.ref(array)
    acl.util.numpy_to_ptr(array)
    del array
    assert kept() is not None


def test_staging_through_acl_is_the_same_as_through_the_simulator(acl):
    acl.rt.set_device(1)
    memory = AclMemory(acl)
    one, two = memory.allocate(1, 32), memory.allocate(1, 32)
    memory.copy_in(one, b"a" * 32)
    memory.copy_device(two, one, 32)
    back = bytearray(32)
    memory.copy_into(back, two)
    assert back == b"a" * 32
    memory.free(one), memory.free(two)
    with pytest.raises(RuntimeError, match="acl 107000"):
        memory.free(two)


def test_installing_makes_import_find_it(monkeypatch):
    import sys

    module = sim.install(2)
    try:
        import acl

        assert acl is module and sim.real_acl() is None
        assert current_device() is None
        acl.rt.set_device(1)
        assert current_device() == 1
    finally:
        for name in ("acl", "acl.rt", "acl.util"):
            del sys.modules[name]
    with pytest.raises(ValueError):
        sim.install(65)


def test_scripts_run_as_they_would_alone(tmp_path):
    (tmp_path / "helper.py").write_text("word = 'helped'")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, acl, helper\n"
        "print(__name__, sys.argv[1:], helper.word, acl.rt.get_device_count(), __file__)\n"
        "raise SystemExit(7)\n"
    )
    ended = run_script("-m", "hbmesh.sim", "--devices", "3", script, "--flag", "x")
    assert ended.stdout == f"__main__ ['--flag', 'x'] helped (3, 0) {script}\n" and ended.returncode == 7
    ended = run_script("-m", "hbmesh.sim", "-m", "script", "y", cwd=tmp_path, env={"HBMESH_SIM_DEVICES": "5"})
    assert ended.stdout.startswith("__main__ ['y'] helped (5, 0)")


def test_processes_of_a_script_have_it_too(tmp_path):
    """However they are started: forked, spawned (as engines do), or as a program of their own."""
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, subprocess, sys\n"
        "import acl\n"
        "def work(number, answers):\n"
        "    answers.put((number, acl.rt.get_device_count()))\n"
        "if __name__ == '__main__':\n"
        "    for number, how in enumerate(('fork', 'spawn')):\n"
        "        context = multiprocessing.get_context(how)\n"
        "        answers = context.Queue()\n"
        "        process = context.Process(target=work, args=(number, answers))\n"
        "        process.start()\n"
        "        print(how, answers.get(timeout=30))\n"
        "        process.join()\n"
        "    code = 'import acl, acl.rt; from hbmesh import sim; print(acl.rt.get_device_count(), sim.real_acl())'\n"
        "    subprocess.run([sys.executable, '-c', code], check=True)\n"
    )
    ended = run_script("-u", "-W", "ignore::DeprecationWarning", "-m", "hbmesh.sim", "--devices", "3", script)
    assert (ended.stdout, ended.stderr) == ("fork (0, (3, 0))\nspawn (1, (3, 0))\n(3, 0) None\n", "")


def test_mistakes_on_the_command_line_are_said(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("print('ran')")
    for arguments, env, says in (
        ([tmp_path / "nowhere.py"], {}, f"there is no script {tmp_path}/nowhere.py"),
        ([], {}, "name a script"),
        (["--devices", "65", script], {}, "--devices 65: there can be 1 to 64"),
        ([script], {"HBMESH_SIM_DEVICES": "many"}, "HBMESH_SIM_DEVICES is 'many': there can be 1 to 64 devices"),
    ):
        ended = run_script("-m", "hbmesh.sim", *arguments, env=env)
        assert ended.returncode == 2 and says in ended.stderr and "Traceback" not in ended.stderr, ended.stderr


def test_events_and_contexts(acl):
    assert acl.rt.get_context() == (0, 107002) and acl.rt.get_run_mode() == (1, 0)
    acl.rt.set_device(2)
    context, code = acl.rt.get_context()
    assert code == 0 and acl.rt.get_context() == (context, 0) and acl.rt.set_device(1) == 0
    assert acl.rt.set_context(context) == 0 and acl.rt.get_device() == (2, 0)
    event, stream = acl.rt.create_event()[0], acl.rt.create_stream()[0]
    ended = (acl.rt.record_event(event, stream), acl.rt.synchronize_event(event), acl.rt.destroy_event(event))
    assert ended == (0, 0, 0) and acl.rt.synchronize_stream_with_timeout(stream, 10) == 0
    pointer, _ = acl.rt.malloc_cached(8, 0)
    assert acl.rt.memset_async(pointer, 8, 1, 8, stream) == 0 and acl.rt.free(pointer) == 0
    assert acl.get_recent_err_msg() == ""


def test_the_real_acl_is_left_alone(tmp_path):
    (tmp_path / "acl.py").write_text("real = True")
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "script.py"
    script.write_text("import acl; print(getattr(acl, 'real', False))")
    from conftest import PYTHON

    path = {"PYTHONPATH": f"{PYTHON}:{tmp_path}"}
    ended = run_script("-m", "hbmesh.sim", script, env=path)
    assert ended.stdout == "True\n" and "using the real acl" in ended.stderr
    ended = run_script("-m", "hbmesh.sim", "--force", script, env=path)
    assert (ended.stdout, ended.stderr) == ("False\n", "")
    ended = run_script("-c", "from hbmesh import sim; sim.install()", env=path)
    assert ended.returncode == 1 and "left alone" in ended.stderr
