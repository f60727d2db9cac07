"""Goal: the wheel has all that a host needs, and serves every Python from 3.9 on; pip installs from the checkout.
Method: build it with pip from the checkout, which stays as it is; install it into an empty folder and into a new
virtual environment, and talk to a worker from there, with every Python that this machine has and nothing of the
checkout on the path; ask ldd what its programs need; parse the sources as 3.9 would.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import LONG, PYTHON, ROOT, Workers

from hbmesh import Client

# Of glibc and of the compiler's runtime.
OF_THE_SYSTEM = tuple("linux-vdso ld-linux libc. libm. libdl. libpthread. librt. libgcc_s. libstdc++.".split())
NATIVE = os.environ.get("HBMESH_NATIVE_DIR", str(ROOT / "build" / "Release"))


PIP = ["-m", "pip", "--disable-pip-version-check", "-q"]
VERSIONS = ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"]


def interpreters():
    """Pythons of this machine that the package is for, by version: this one, those on the PATH, those of pyenv."""
    found = {".".join(map(str, sys.version_info[:2])): sys.executable}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        places = [*pyenv.glob(f"{version}.*/bin/python"), shutil.which(f"python{version}")]
        for place in filter(None, places):
            asked = subprocess.run([place, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True)
            if asked.returncode == 0 and version not in found:
                found[version] = asked.stdout.strip()
    return found


INTERPRETERS = interpreters()


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    before = tree(PYTHON)
    command = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, PYTHON]
    env = {**os.environ, "HBMESH_NATIVE_DIR": NATIVE}
    subprocess.run([sys.executable, *command], check=True, timeout=LONG * 4, env=env)
    assert tree(PYTHON) == before
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    command = [*PIP, "install", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run([sys.executable, *command], check=True, timeout=LONG * 2)
    return target


def run(installed, *arguments, python=sys.executable):
    """Runs Python with what is installed there, and nothing of the checkout."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HBMESH_", "PYTHON"))}
    return subprocess.run(
        [python, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LONG * 2,
        cwd=installed,
        env={**env, "PYTHONPATH": str(installed)},
    )


def test_one_wheel_for_every_python_3(wheel):
    assert wheel.name.startswith("hbmesh-0.1.0-py3-none-linux_")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "hbmesh/lib/libhbmesh.so",
        "hbmesh/lib/hbmesh-sidecar",
        "hbmesh/lib/hbmesh.node",
        "hbmesh/py.typed",
        "datasystem/kv_client.py",
    ):
        assert wanted in names
    assert "yr/__init__.py" not in names  # other packages may have modules under yr
    assert not [name for name in names if name.startswith(("tests", "examples")) or "__pycache__" in name]


SMOKE = """
import asyncio, os, sys, warnings
import datasystem, hbmesh, hbmesh._native, yr.datasystem
from hbmesh import AsyncClient, Client, DeviceBlobList, SimDevice
from yr.datasystem.hetero_client import Blob, HeteroClient
host, port = sys.argv[1], int(sys.argv[2])
warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads, from Python 3.12 on
with Client(host, port) as client:
    key = client.generate_key("wheel")
    source, target = SimDevice(0).buffer(64), SimDevice(1).buffer(64)
    SimDevice.copy_in(source.pointer, b"w" * 64)
    client.mset_d2h([key], [DeviceBlobList.of(0, source)]).raise_for_failures()
    old = HeteroClient(host, port)
    old.init()
    assert old.mget_h2d([key], [yr.datasystem.DeviceBlobList(1, [Blob(target.pointer, 64)])], 0) == []
    assert SimDevice.copy_out(target.pointer, 64) == b"w" * 64
    async def gone():
        async with AsyncClient(host, port) as other:
            return (await other.delete([key])).existed
    assert asyncio.run(gone()) == [True]
    child = os.fork()
    if child == 0:
        try:
            client.exist([key])
        except hbmesh.NotSupportedError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print(sys.version_info[:2], hbmesh._native.load().path)
"""


@pytest.mark.parametrize("version", INTERPRETERS)
def test_it_works_without_the_checkout(installed, workers, version):
    ended = run(installed, "-c", SMOKE, *workers.place(0), python=INTERPRETERS[version])
    path = f"{installed}/hbmesh/lib/libhbmesh.so"
    assert (ended.stdout, ended.stderr) == (f"({version.replace('.', ', ')}) {path}\n", "")


def test_pip_puts_it_into_a_new_environment(wheel, workers, tmp_path):
    """A virtual environment with nothing in it, as a new user makes one; `hbmesh-sidecar` is on its PATH."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=LONG)
    python = tmp_path / "venv" / "bin" / "python"
    command = [*PIP, "--python", python, "install", "--no-index", wheel]
    subprocess.run([sys.executable, *command], check=True, timeout=LONG * 2)
    ended = run(tmp_path, "-c", SMOKE, *workers.place(1), python=python)
    assert ended.stderr == "" and str(tmp_path / "venv") in ended.stdout
    script = tmp_path / "venv" / "bin" / "hbmesh-sidecar"
    ended = run(tmp_path, "-c", "import hbmesh; hbmesh.SimDevice(0).array(1)", python=python)
    assert "ImportError: SimDevice.array needs numpy: install it, or use buffer(size)" in ended.stderr
    readme = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S).group(1)
    place = "Client({!r}, {})".format(*workers.place(1))
    ended = run(tmp_path, "-c", readme.replace('Client("127.0.0.1", 31501)', place), python=python)
    assert (ended.stdout, ended.stderr) == ("", "")
    with Client(*workers.place(1)) as client:
        assert client.delete(["layer0"]).existed == [True]
    where = subprocess.run([script, "--where"], capture_output=True, text=True, check=True, timeout=LONG).stdout
    assert where.startswith(str(tmp_path / "venv"))
    script = PYTHON / "examples" / "single_process.py"
    ended = run(tmp_path, "-m", "hbmesh.sim", script, *workers.flags(0), python=python)
    assert (ended.stdout, ended.stderr) == ("[True] [1024, 4096, 100]\nOK\n", "")


def test_the_sidecar_comes_with_its_libraries(installed):
    folder = installed / "hbmesh" / "lib"
    ended = run(installed, "-m", "hbmesh.sidecar", "--help")
    assert (ended.returncode, ended.stderr) == (0, "") and "--worker_address" in ended.stdout
    assert run(installed, "-m", "hbmesh.sidecar", "--where").stdout == f"{folder}\n"
    # What a program asks for, and that in turn, is in the wheel or part of every Linux with the compiler's runtime.
    for program in (folder / name for name in ("libhbmesh.so", "hbmesh-sidecar", "hbmesh.node")):
        lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, env={}).stdout.splitlines()
        for line in lines:
            name = line.split()[0]
            assert name.lstrip("/").split("/")[-1].startswith(OF_THE_SYSTEM) or f"=> {folder}/" in line, (program, line)
            assert "not found" not in line


def test_a_worker_runs_on_the_native_parts_of_the_wheel(installed):
    """As a host would that has Node and the wheel, but no compiler."""
    folder = run(installed, "-m", "hbmesh.sidecar", "--where").stdout.strip()
    with Workers("--workers", "1", env={**os.environ, "HBMESH_NATIVE_DIR": folder}) as own:
        with open(f"/proc/{own.about[0]['sidecarPid']}/maps", encoding="utf-8") as maps:
            loaded = {line.split()[-1] for line in maps if "/lib" in line or "hbmesh" in line}
        with Client(*own.place(0)) as client:
            assert client.health_check().ready
    assert f"{folder}/hbmesh-sidecar" in loaded
    for name in ("libspdlog", "libfmt", "liburing", "libxxhash", "libcrypto"):
        assert [path for path in loaded if name in path] == [
            path for path in loaded if path.startswith(f"{folder}/{name}")
        ]
        assert any(name in path for path in loaded)


def test_sources_are_of_python_3_9():
    sources = [path for name in ("hbmesh", "yr", "datasystem", "examples") for path in (PYTHON / name).rglob("*.py")]
    assert len(sources) > 30
    for path in sources:
        ast.parse(path.read_text(), str(path), feature_version=(3, 9))


def test_a_build_without_the_library_says_what_to_do(tmp_path):
    sources = shutil.copytree(PYTHON, tmp_path / "sources", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    env = {**os.environ, "HBMESH_NATIVE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py"], cwd=sources, env=env, capture_output=True, text=True
    )
    assert ended.returncode != 0 and "npm run setup" in ended.stderr
