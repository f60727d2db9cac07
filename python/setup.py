"""Puts libhbmesh.so and the sidecar into the wheel, and gives it a tag that fits: any Python 3, this platform.

They are taken from build/Release of the checkout (`npm run setup` makes them), or from HBMESH_NATIVE_DIR. The sidecar's
own libraries that not every machine has go with it.
"""

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

LIBRARY, SIDECAR = "libhbmesh.so", "hbmesh-sidecar"
# Part of every Linux that runs the rest.
SYSTEM = ("linux-vdso", "ld-linux", "libc.", "libm.", "libdl.", "libpthread.", "librt.", "libgcc_s.", "libstdc++.")


def native_folder():
    here = Path(__file__).absolute().parent
    folder = Path(os.environ.get("HBMESH_NATIVE_DIR") or here.parent / "build" / "Release")
    missing = [name for name in (LIBRARY, SIDECAR) if not (folder / name).exists()]
    if missing:
        raise SystemExit(
            f"{' and '.join(missing)} not in {folder}: run `npm run setup` in the checkout first, or name their "
            "folder in HBMESH_NATIVE_DIR"
        )
    return folder


def needed_libraries(program):
    """Files that the program is linked with, without those of the system."""
    lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.split("=>")[1].split()[0] for line in lines if "=> /" in line]
    return [Path(path) for path in found if not Path(path).name.startswith(SYSTEM)]


class BuildWithLibraries(build_py):
    def run(self):
        super().run()
        folder = native_folder()
        target = Path(self.build_lib) / "hbmesh" / "lib"
        target.mkdir(parents=True, exist_ok=True)
        for path in [folder / LIBRARY, folder / SIDECAR, *needed_libraries(folder / SIDECAR)]:
            shutil.copy2(path, target / path.name)


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


setup(cmdclass={"build_py": BuildWithLibraries, "bdist_wheel": PlatformWheel}, distclass=NativeDistribution)
