"""Goal: the wheel has all that a host needs, and serves every Python from 3.9 on; pip installs from the checkout.
Method: build it as `npm run wheel` does, install it into an empty folder, and talk to a worker from there with nothing
of the checkout on the path; parse the sources as 3.9 would.
"""

import ast
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import LONG, PYTHON, ROOT

NATIVE = os.environ.get("HBMESH_NATIVE_DIR", str(ROOT / "build" / "Release"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", "tests")
    sources = shutil.copytree(PYTHON, folder / "sources", ignore=skipped)
    command = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q", "-w", folder]
    subprocess.run(
        [sys.executable, "-m", *command, sources],
        check=True,
        timeout=LONG * 4,
        env={**os.environ, "HBMESH_NATIVE_DIR": NATIVE},
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    command = ["pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check", "-q", "--target", target]
    subprocess.run([sys.executable, "-m", *command, wheel], check=True, timeout=LONG * 2)
    return target


def run(installed, *arguments):
    env = {name: value for name, value in os.environ.items() if not name.startswith("HBMESH_")}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=LONG,
        cwd=installed,
        env={**env, "PYTHONPATH": str(installed)},
    )


def test_one_wheel_for_every_python_3(wheel):
    assert wheel.name.startswith("hbmesh-0.1.0-py3-none-linux_")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "hbmesh/lib/libhbmesh.so",
        "hbmesh/lib/hbmesh-sidecar",
        "hbmesh/py.typed",
        "datasystem/kv_client.py",
    ):
        assert wanted in names
    assert "yr/__init__.py" not in names  # other packages may have modules under yr
    assert not [name for name in names if name.startswith(("tests", "examples")) or "__pycache__" in name]


def test_it_works_without_the_checkout(installed, workers):
    host, port = workers.place(0)
    script = f"""
import hbmesh, hbmesh._native, yr.datasystem
with hbmesh.Client({host!r}, {port}) as client:
    piece = hbmesh.SimDevice(0).buffer(64)
    print(bool(client.mset_d2h(["of-the-wheel"], [hbmesh.DeviceBlobList.of(0, piece)])))
    print(client.delete(["of-the-wheel"]).existed)
print(hbmesh._native.load().path)
"""
    ended = run(installed, "-c", script)
    assert (ended.stdout, ended.stderr) == (f"True\n[True]\n{installed}/hbmesh/lib/libhbmesh.so\n", "")


def test_the_sidecar_comes_with_its_libraries(installed):
    ended = run(installed, "-m", "hbmesh.sidecar", "--help")
    assert ended.returncode == 0 and "--worker_address" in ended.stdout
    assert run(installed, "-m", "hbmesh.sidecar", "--where").stdout == f"{installed}/hbmesh/lib\n"


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
