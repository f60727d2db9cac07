"""libhbmesh.so through ctypes: where it is, its structs and its functions, and what a fork does to them.

Calls that may wait go through a library object that releases the interpreter's lock; those that only look at what is
there keep it, since giving it away costs more than they take.

Nothing outside of this package should import this module; :mod:`hbmesh` is the interface.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, c_char, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, List, Optional, Type, TypeVar

from .errors import HbmeshError, StatusCode, error_of

LIBRARY_NAME = "libhbmesh.so"
# The release that this package was made with; a library of another one has other structs.
API_VERSION = (0, 1)

S = TypeVar("S", bound=Structure)


class ClientOptions(Structure):
    _fields_ = [
        ("size", c_uint32),
        ("connect_timeout_ms", c_uint32),
        ("request_timeout_ms", c_uint32),
        ("subscribe_timeout_ms", c_uint32),
        ("subscribe_many_ms", c_uint32),
        ("spin_micros", c_uint32),
        ("floor_bytes_per_second", c_uint64),
        ("worker_address", c_char_p),
        ("token", c_char_p),
    ]


class Batch(Structure):
    _fields_ = [
        ("size", c_uint32),
        ("device_index", c_uint32),
        ("key_count", c_uint32),
        ("blob_count", c_uint32),
        ("keys", c_void_p),
        ("key_bytes", c_void_p),
        ("blob_ends", c_void_p),
        ("pointers", c_void_p),
        ("blob_bytes", c_void_p),
    ]


class SetOptions(Structure):
    _fields_ = [
        ("size", c_uint32),
        ("existence", c_uint32),
        ("ttl_ms", c_uint64),
        ("pin", c_uint32),
        ("checksum", c_uint32),
    ]


class Path_(Structure):
    _fields_ = [
        ("size", c_uint32),
        ("transport", c_uint32),
        ("device_index", c_uint32),
        ("lanes", c_uint32),
        ("slices", c_uint32),
        ("flags", c_uint32),
        ("bytes", c_uint64),
        ("nanoseconds", c_uint64),
        ("source", c_char * 48),
    ]


class HealthInfo(Structure):
    _fields_ = [
        ("size", c_uint32),
        ("ready", c_uint32),
        ("device_count", c_uint32),
        ("reserved", c_uint32),
        ("session", c_uint64),
        ("backend", c_char * 16),
    ]


# The structs of hbmesh.h by their names there; a test compares them with the header.
STRUCTS = {
    "hbmesh_client_options": ClientOptions,
    "hbmesh_batch": Batch,
    "hbmesh_set_options": SetOptions,
    "hbmesh_path": Path_,
    "hbmesh_health_info": HealthInfo,
}


def made(kind: Type[S]) -> S:
    """A struct of the API with its size set and all else zero."""
    struct = kind()
    struct.size = ctypes.sizeof(kind)
    return struct


_Handle = c_void_p
_HandleOut = POINTER(c_void_p)
_BATCH = POINTER(Batch)
_SET = POINTER(SetOptions)

# name: (result, arguments). Waiting calls release the interpreter's lock.
WAITING = {
    "client_init": (c_uint32, [_Handle]),
    "client_close": (None, [_Handle]),
    "client_free": (None, [_Handle]),
    "set_d2h": (c_uint32, [_Handle, _BATCH, _SET, _HandleOut]),
    "get_h2d": (c_uint32, [_Handle, _BATCH, c_uint32, _HandleOut]),
    "set_d2h_async": (c_uint32, [_Handle, _BATCH, _SET, _HandleOut]),
    "get_h2d_async": (c_uint32, [_Handle, _BATCH, c_uint32, _HandleOut]),
    "delete": (c_uint32, [_Handle, _BATCH, _HandleOut]),
    "delete_async": (c_uint32, [_Handle, _BATCH, _HandleOut]),
    "exist": (c_uint32, [_Handle, _BATCH, _HandleOut]),
    "exist_async": (c_uint32, [_Handle, _BATCH, _HandleOut]),
    "get_meta_info": (c_uint32, [_Handle, _BATCH, _HandleOut]),
    "get_meta_info_async": (c_uint32, [_Handle, _BATCH, _HandleOut]),
    "explain": (c_uint32, [_Handle, c_char_p, _HandleOut]),
    "explain_async": (c_uint32, [_Handle, c_char_p, _HandleOut]),
    "dev_publish": (c_uint32, [_Handle, _BATCH, _HandleOut]),
    "dev_subscribe": (c_uint32, [_Handle, _BATCH, c_uint32, _HandleOut]),
    "dev_mset": (c_uint32, [_Handle, _BATCH, _SET, _HandleOut]),
    "dev_mset_async": (c_uint32, [_Handle, _BATCH, _SET, _HandleOut]),
    "dev_mget": (c_uint32, [_Handle, _BATCH, c_uint32, c_uint32, _HandleOut]),
    "dev_mget_async": (c_uint32, [_Handle, _BATCH, c_uint32, c_uint32, _HandleOut]),
    "dev_delete": (c_uint32, [_Handle, _BATCH, _HandleOut]),
    "dev_delete_async": (c_uint32, [_Handle, _BATCH, _HandleOut]),
    "dev_local_delete": (c_uint32, [_Handle, _BATCH, _HandleOut]),
    "dev_local_delete_async": (c_uint32, [_Handle, _BATCH, _HandleOut]),
    "reserve_layers": (c_uint32, [_Handle, _BATCH, c_uint64, _HandleOut]),
    "push_layer": (c_uint32, [_Handle, c_char_p, c_uint32, _BATCH, _HandleOut]),
    "push_layer_async": (c_uint32, [_Handle, c_char_p, c_uint32, _BATCH, _HandleOut]),
    "pre_register": (c_uint32, [_Handle, c_void_p, c_void_p, c_uint32]),
    "health": (c_uint32, [_Handle, POINTER(HealthInfo)]),
    "future_get": (c_uint32, [_Handle, c_uint32, _HandleOut]),
    "ticket_wait_layer": (c_uint32, [_Handle, c_uint32, c_uint32]),
    "ticket_wait_all": (c_uint32, [_Handle, c_uint32]),
    "sim_allocate": (c_uint32, [c_uint32, c_uint64, POINTER(c_uint64)]),
    "sim_copy_in": (c_uint32, [c_uint64, c_void_p, c_uint64]),
    "sim_copy_out": (c_uint32, [c_void_p, c_uint64, c_uint64]),
}
LOOKING = {
    "version": (c_uint32, []),
    "status_name": (c_char_p, [c_uint32]),
    "last_message": (c_char_p, []),
    "last_key": (c_uint32, []),
    "client_create": (c_uint32, [POINTER(ClientOptions), _HandleOut]),
    "result_count": (c_uint32, [_Handle]),
    "result_failed_count": (c_uint32, [_Handle]),
    "result_statuses": (POINTER(c_uint32), [_Handle]),
    "result_flags": (POINTER(c_uint32), [_Handle]),
    "result_bytes": (POINTER(c_uint64), [_Handle]),
    "result_generations": (POINTER(c_uint64), [_Handle]),
    "result_status": (c_uint32, [_Handle, c_uint32]),
    "result_message": (c_char_p, [_Handle, c_uint32]),
    "result_blob_bytes": (POINTER(c_uint64), [_Handle, POINTER(c_uint32)]),
    "result_blob_ends": (POINTER(c_uint32), [_Handle]),
    "result_path_count": (c_uint32, [_Handle]),
    "result_path": (c_uint32, [_Handle, c_uint32, POINTER(Path_)]),
    "transport_name": (c_char_p, [c_uint32]),
    "result_free": (None, [_Handle]),
    "future_cancel": (c_uint32, [_Handle]),
    "future_done": (c_uint32, [_Handle]),
    "future_notify": (c_uint32, [_Handle, c_int]),
    "future_free": (None, [_Handle]),
    "ticket_text": (c_char_p, [_Handle]),
    "ticket_layer_count": (c_uint32, [_Handle]),
    "ticket_layer": (c_uint32, [_Handle, c_uint32, _HandleOut]),
    "ticket_cancel": (c_uint32, [_Handle]),
    "ticket_free": (None, [_Handle]),
    "client_address": (c_uint32, [_Handle, c_char_p, c_size_t]),
    "generate_key": (c_uint32, [c_char_p, c_void_p, c_size_t]),
    "sim_free": (c_uint32, [c_uint64]),
}


class Api:
    """The functions of hbmesh.h without their prefix: ``api.set_d2h(...)``."""

    def __init__(self, path: str) -> None:
        self.path = path
        waiting, looking = ctypes.CDLL(path), ctypes.PyDLL(path)
        for library, functions in ((waiting, WAITING), (looking, LOOKING)):
            for name, (result, arguments) in functions.items():
                try:
                    function = getattr(library, f"hbmesh_{name}")
                except AttributeError as error:
                    raise ImportError(
                        f"{path} has no hbmesh_{name}: library and package must be of the same release; in a checkout, "
                        "`npm run setup` builds it anew"
                    ) from error
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)
        version = self.version()
        if (version // 10000, version // 100 % 100) != API_VERSION:
            raise ImportError(
                f"{path} is of release {version // 10000}.{version // 100 % 100}, this package of "
                f"{API_VERSION[0]}.{API_VERSION[1]}: library and package must be of the same release"
            )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def last_text(self) -> str:
        """Why this thread's last call failed."""
        text: bytes = self.last_message() or b""
        return text.decode("utf-8", "replace")


def library_candidates() -> List[Path]:
    """Where the library may be, best first: told by the environment, installed with the package, built in a
    checkout."""
    candidates = []
    if os.environ.get("HBMESH_LIBRARY"):
        candidates.append(Path(os.environ["HBMESH_LIBRARY"]))
    if os.environ.get("HBMESH_NATIVE_DIR"):
        candidates.append(Path(os.environ["HBMESH_NATIVE_DIR"]) / LIBRARY_NAME)
    package = Path(__file__).resolve().parent
    candidates.append(package / "lib" / LIBRARY_NAME)
    candidates.append(package.parent.parent / "build" / "Release" / LIBRARY_NAME)
    return candidates


_api: Optional[Api] = None


def load() -> Api:
    """The library, loaded at the first call. Raises ImportError that says where it was looked for."""
    global _api
    if _api is None:
        candidates = library_candidates()
        # What the environment names must be there: falling back silently would run something else.
        named = [path for path in candidates[:-2] if not path.exists()]
        found = None if named else next((path for path in candidates if path.exists()), None)
        if found is None:
            places = ", ".join(str(path) for path in named or candidates)
            raise ImportError(
                f"{LIBRARY_NAME} is not there (looked at {places}): install the wheel that `npm run wheel` makes, run "
                "`npm run setup` in the checkout, or name the file in HBMESH_LIBRARY"
            )
        _api = Api(str(found))
    return _api


# Counts the forks between the first process and this one: handles of another count belong to a parent.
_generation = 0


def _count_fork() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_count_fork)


def generation() -> int:
    return _generation


def eventfd() -> int:
    """A new eventfd that does not block; :func:`os.eventfd` is there from Python 3.10 on only."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.eventfd(0, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"no eventfd: {os.strerror(code)}")
    return fd


def fork_error(what: str, node: Optional[str] = None) -> HbmeshError:
    return error_of(
        StatusCode.NOT_SUPPORTED,
        f"this {what} was made before the process forked: make a client of its own in the child process",
        node=node,
    )
