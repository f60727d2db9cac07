"""Goal: the package and libhbmesh.so mean the same bytes and names.
Method: read native/capi/hbmesh.h and proto's status table, and compare structs, functions and codes with those here.
"""

import ctypes
import re

import pytest
from conftest import ROOT, run_script

import hbmesh
from hbmesh import StatusCode, _native

HEADER = (ROOT / "native/capi/hbmesh.h").read_text()
CODE = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)
PARTS = ("MAJOR", "MINOR", "PATCH")
C_TYPES = {
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "const char*": ctypes.c_char_p,
}


def test_structs_are_those_of_the_header():
    found = {}
    for match in re.finditer(r"typedef struct (\w+) \{(.*?)\}", CODE, flags=re.S):
        found[match.group(1)] = [
            re.fullmatch(r"(.*?)\s*(\w+)(?:\[(\d+)\])?", line.strip()).groups()
            for line in match.group(2).split(";")
            if line.strip()
        ]
    assert set(found) == set(_native.STRUCTS)
    for name, fields in found.items():
        here = _native.STRUCTS[name]._fields_
        assert [field for _, field, _ in fields] == [field for field, _ in here], name
        for (kind, field, length), (_, ours) in zip(fields, here):
            if length is not None:
                assert ours is ctypes.c_char * int(length) or ours._length_ == int(length), field
            elif kind in C_TYPES:
                assert ours is C_TYPES[kind], f"{name}.{field}"
            else:
                assert kind.endswith("*") and ours is ctypes.c_void_p, f"{name}.{field}"


def test_every_function_of_the_header_is_declared_with_as_many_arguments():
    declared = {**_native.WAITING, **_native.LOOKING}
    found = {}
    for name, arguments in re.findall(r"HBMESH_API [\w* ]+?\bhbmesh_(\w+)\(([^)]*)\);", CODE):
        found[name] = 0 if arguments.strip() == "void" else arguments.count(",") + 1
    assert len(found) > 50
    assert set(found) == set(declared)
    assert found == {name: len(arguments) for name, (_, arguments) in declared.items()}


def test_codes_are_those_of_the_table():
    proto = (ROOT / "proto/hbmesh/v1/status.proto").read_text()
    table = re.search(r"enum StatusCode \{(.*?)\n\}", proto, flags=re.S).group(1)
    codes = {name: int(number) for name, number in re.findall(r"^\s*([A-Z_0-9]+) = (\d+)", table, flags=re.M)}
    codes = {name.replace("STATUS_CODE_", ""): number for name, number in codes.items()}
    assert codes == {code.name: code.value for code in StatusCode}
    api = _native.load()
    assert {api.status_name(code.value).decode() for code in StatusCode} == {code.name for code in StatusCode}


def test_flags_are_those_of_the_header():
    from hbmesh import results

    flags = {name: int(number) for name, number in re.findall(r"\bHBMESH_((?:PATH_)?[A-Z]+) = (\d+)", CODE)}
    ours = {f"PATH_{name}": getattr(results, f"_{name}") for name in ("FALLBACK", "STAGED", "SPILLED")}
    assert {name: number for name, number in flags.items() if name.startswith("PATH_")} == ours
    assert flags["EXISTED"] == results._EXISTED


def test_versions_are_the_same_everywhere():
    major, minor, patch = (re.search(rf"HBMESH_VERSION_{part} (\d+)", CODE).group(1) for part in PARTS)
    version = f"{major}.{minor}.{patch}"
    assert hbmesh.__version__ == version and (int(major), int(minor)) == _native.API_VERSION
    assert f'version = "{version}"' in (ROOT / "python" / "pyproject.toml").read_text()
    assert f'"version": "{version}"' in (ROOT / "package.json").read_text()


def test_an_unknown_code_is_a_runtime_error():
    assert StatusCode(424242) is StatusCode.RUNTIME_ERROR


@pytest.mark.parametrize("variable", ["HBMESH_LIBRARY", "HBMESH_NATIVE_DIR"])
def test_a_library_that_is_not_there_is_named(variable, tmp_path):
    cleared = {"HBMESH_LIBRARY": "", "HBMESH_NATIVE_DIR": ""}
    missing = str(tmp_path / "nowhere")
    ended = run_script("-c", "import hbmesh; hbmesh.generate_key()", env={**cleared, variable: missing})
    assert ended.returncode == 1
    assert missing in ended.stderr and "npm run wheel" in ended.stderr


def test_a_library_of_another_kind_is_refused():
    with open("/proc/self/maps", encoding="utf-8") as maps:
        libc = next(line.split()[-1] for line in maps if re.search(r"/libc[.-]", line))
    ended = run_script("-c", "import hbmesh; hbmesh.generate_key()", env={"HBMESH_LIBRARY": libc})
    assert ended.returncode == 1
    assert "must be of the same release" in ended.stderr
