"""Puts libhbmesh.so, the sidecar and the addon of its control process into the wheel, and gives it a tag that fits: any
Python 3, this platform.

They are taken from build/Release of the checkout (`npm run setup` makes them), or from HBMESH_NATIVE_DIR. The sidecar's
own libraries that not every machine has go with it; it looks for them in its own folder (RPATH).
"""

import atexit
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

LIBRARY, SIDECAR, ADDON = "libhbmesh.so", "hbmesh-sidecar", "hbmesh.node"
# Part of every Linux that runs the rest.
SYSTEM = ("linux-vdso", "ld-linux", "libc.", "libm.", "libdl.", "libpthread.", "librt.", "libgcc_s.", "libstdc++.")


def native_folder():
    here = Path(__file__).absolute().parent
    folder = Path(os.environ.get("HBMESH_NATIVE_DIR") or here.parent / "build" / "Release")
    missing = [name for name in (LIBRARY, SIDECAR, ADDON) if not (folder / name).exists()]
    if missing:
        raise SystemExit(
            f"{' and '.join(missing)} not in {folder}: run `npm run setup` in the checkout first, or name their "
            "folder in HBMESH_NATIVE_DIR"
        )
    return folder


def needed_libraries(program):
    """Files that the program is linked with, and those in turn, without those of the system."""
    lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.splitlines()
    lost = [line.split()[0] for line in lines if "not found" in line]
    if lost:
        raise SystemExit(f"{program} needs {', '.join(lost)}, which is not on this machine: run `npm run setup` again")
    # The name that the program asks for, not that of the file behind it.
    found = [(line.split()[0], line.split("=>")[1].split()[0]) for line in lines if "=> /" in line]
    return {name: Path(path) for name, path in found if not name.startswith(SYSTEM)}


def temporary_folder():
    folder = tempfile.mkdtemp(prefix="hbmesh-python-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class BuildElsewhere(build):
    """Leaves nothing in the checkout, and finds nothing there of an earlier build: modules that are gone stay gone."""

    def initialize_options(self):
        super().initialize_options()
        self.build_base = temporary_folder()


class InfoElsewhere(egg_info):
    def initialize_options(self):
        super().initialize_options()
        self.egg_base = temporary_folder()


class BuildWithLibraries(build_py):
    def run(self):
        super().run()
        folder = native_folder()
        target = Path(self.build_lib) / "hbmesh" / "lib"
        target.mkdir(parents=True, exist_ok=True)
        files = {name: folder / name for name in (LIBRARY, SIDECAR, ADDON)}
        for name, path in {**files, **needed_libraries(files[SIDECAR])}.items():
            shutil.copy2(path, target / name)


class PlatformWheel(bdist_wheel):
    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class NativeDistribution(Distribution):
    """Has files of one platform, though no extension module."""

    def has_ext_modules(self):
        return True


COMMANDS = {
    "bdist_wheel": PlatformWheel,
    "build": BuildElsewhere,
    "build_py": BuildWithLibraries,
    "egg_info": InfoElsewhere,
}
setup(cmdclass=COMMANDS, distclass=NativeDistribution)
