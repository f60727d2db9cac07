"""What the clients of this package share: argument checks, statuses, and errors with the text that users know."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator, List, Optional, Sequence

from hbmesh._values import whole
from hbmesh.errors import HbmeshError, StatusCode
from hbmesh.results import BatchResult

__all__ = ["DsError", "FutureTimeoutException", "Status"]


class DsError(HbmeshError):
    """What every call raises: a RuntimeError whose text is ``code: [N], msg: [...]``.

    Attributes:
        code: number of the status, as an enum.
        message: cause and remedy.
        key: the key concerned, where there is one.
        node: the worker that was asked.
        failed_keys: keys that failed, where the call says it of several.
    """

    failed_keys: List[str] = []

    def __str__(self) -> str:
        return f"code: [{int(self.code)}], msg: [{self.text}]"


class FutureTimeoutException(DsError):
    """A future has not ended within the time that was waited for it."""


class Status:
    """How a worker is.

    Args:
        code: 0 when all is well.
        message: why not.
    """

    def __init__(self, code: int = 0, message: str = "") -> None:
        self._code = StatusCode(code)
        self._message = message

    def is_ok(self) -> bool:
        return self._code == StatusCode.OK

    def is_error(self) -> bool:
        return not self.is_ok()

    def to_string(self) -> str:
        return f"code: [{int(self._code)}], msg: [{self._message}]"


def as_ds_error(error: HbmeshError, failed_keys: Sequence[str] = ()) -> DsError:
    kind = FutureTimeoutException if error.code == StatusCode.FUTURE_TIMEOUT else DsError
    # Of a client that is not connected: what hbmesh calls connect() is init() here.
    message = error.message.replace("call connect() first", "call init() first")
    made = kind(error.code, message, key=error.key, node=error.node)
    made.failed_keys = list(failed_keys)
    return made


def invalid(message: str) -> DsError:
    return DsError(StatusCode.INVALID, message)


@contextmanager
def translated() -> Iterator[None]:
    """Errors of hbmesh leave as DsError."""
    try:
        yield
    except DsError:
        raise
    except HbmeshError as error:
        raise as_ds_error(error) from error


def check_type(name: str, value: Any, *types: type) -> None:
    """Raises TypeError unless the value is of one of the types. A bool is no int here; a whole number of numpy is."""
    if isinstance(value, types) and not (isinstance(value, bool) and bool not in types):
        return
    if int in types and whole(value) is not None:
        return
    wanted = ", ".join(each.__name__ for each in types)
    raise TypeError(f"The input of {name} has invalid type, valid type: [{wanted}], not {type(value).__name__}")


def check_keys(keys: Any, name: str = "keys") -> None:
    check_type(name, keys, list)
    for key in keys:
        check_type(f"{name}, an element", key, str)


def check_timeout(name: str, value: Any, limit: int = 1_800_000) -> int:
    check_type(name, value, int)
    if not 0 <= value <= limit:
        raise invalid(f"{name} is {value}: it must be from 0 to {limit}")
    return int(value)


def failed_or_raise(result: BatchResult) -> List[str]:
    """The failed keys; raises the first one's error when all failed, as callers of this interface expect."""
    failed = result.failed_keys
    if failed and len(failed) == len(result):
        raise_first(result)
    return failed


def raise_first(result: BatchResult) -> None:
    """Raises the first failing key's error with all failed keys, or returns."""
    error: Optional[HbmeshError] = result.error()
    if error is not None:
        raise as_ds_error(error, result.failed_keys)
