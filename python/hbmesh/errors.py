"""Status codes and the exceptions that carry them.

Every failure of hbmesh is an :class:`HbmeshError` with ``code``, ``message``, ``key`` and ``node``; the frequent ones
have a class of their own, so that callers can catch what they know how to handle. The table of codes is that of
``proto/hbmesh/v1/status.proto``.
"""

from __future__ import annotations

import enum
from typing import Dict, Optional, Type


class StatusCode(enum.IntEnum):
    """Why something failed. The numbers are the same in every language and never change."""

    OK = 0
    INVALID = 2
    NOT_FOUND = 3
    RUNTIME_ERROR = 5
    OUT_OF_MEMORY = 6
    NOT_READY = 8
    NOT_AUTHORIZED = 9
    INTERRUPTED = 11
    OUT_OF_RANGE = 12
    NO_SPACE = 13
    TRY_AGAIN = 19
    DATA_INCONSISTENCY = 20
    SHUTTING_DOWN = 21
    CLIENT_WORKER_DISCONNECT = 23
    WORKER_TIMEOUT = 24
    SCALING = 32
    NOT_SUPPORTED = 36
    NO_AVAILABLE_WORKER = 37
    RPC_CANCELLED = 1000
    RPC_DEADLINE_EXCEEDED = 1001
    RPC_UNAVAILABLE = 1002
    RDMA_ERROR = 1005
    RPC_PEER_DEAD = 1011
    KEY_ALREADY_EXISTS = 2004
    ACL_ERROR = 5000
    HCCL_ERROR = 5001
    FUTURE_TIMEOUT = 5002

    @classmethod
    def _missing_(cls, value: object) -> "StatusCode":
        # A later worker may know more codes than this client.
        return cls.RUNTIME_ERROR


class HbmeshError(RuntimeError):
    """A call, or one key of it, failed.

    As text it is the code's name and the message, with key and node.

    Attributes:
        code: why, from the closed table.
        message: cause and remedy in a sentence.
        key: the key concerned, where there is one.
        node: ``IP:PORT`` of the worker that was asked, where there is one.
    """

    def __init__(self, code: int, message: str, *, key: Optional[str] = None, node: Optional[str] = None) -> None:
        self.code = StatusCode(code)
        self.message = message
        self.key = key
        self.node = node
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.code.name}: {self.text}"

    @property
    def text(self) -> str:
        """The message, with key and node where it does not name them itself."""
        named = [("key", self.key and repr(self.key), self.key), ("node", self.node, self.node)]
        said = [f"{what} {shown}" for what, shown, value in named if value and value not in self.message]
        return f"{self.message} ({', '.join(said)})" if said else self.message

    def __reduce__(self):  # type: ignore[no-untyped-def]
        # Exceptions travel between processes (multiprocessing, executors); the default forgets keyword arguments.
        return _rebuild, (type(self), int(self.code), self.message, self.key, self.node)


def _rebuild(kind: Type[HbmeshError], code: int, message: str, key: Optional[str], node: Optional[str]) -> HbmeshError:
    return kind(code, message, key=key, node=node)


class InvalidError(HbmeshError):
    """INVALID: the arguments are wrong; the same call fails again."""


class NotFoundError(HbmeshError):
    """NOT_FOUND: the key is not there, also not in time."""


class OutOfMemoryError(HbmeshError):
    """OUT_OF_MEMORY: nothing could be evicted; the message says how much is pinned and in transfer."""


class NotReadyError(HbmeshError):
    """NOT_READY: connect first."""


class NotAuthorizedError(HbmeshError):
    """NOT_AUTHORIZED: the token is refused, or another user serves the address."""


class TryAgainError(HbmeshError):
    """TRY_AGAIN: nothing is known for sure now; the same call may succeed in a moment."""


class ShuttingDownError(HbmeshError):
    """SHUTTING_DOWN: the client was closed."""


class DisconnectedError(HbmeshError):
    """CLIENT_WORKER_DISCONNECT: the worker's sidecar ended; connect again."""


class NotSupportedError(HbmeshError):
    """NOT_SUPPORTED: also a client that was made before the process forked."""


class NoWorkerError(HbmeshError):
    """NO_AVAILABLE_WORKER: nothing serves the address on this machine."""


class CancelledError(HbmeshError):
    """RPC_CANCELLED: the caller asked for the end."""


class DeadlineExceededError(HbmeshError):
    """RPC_DEADLINE_EXCEEDED or WORKER_TIMEOUT: no answer in time. After WORKER_TIMEOUT the call's device memory may
    still be in use; close the client before it is used again."""


class UnavailableError(HbmeshError):
    """RPC_UNAVAILABLE: the key's owner or only holder can't be reached."""


class PeerDeadError(HbmeshError):
    """RPC_PEER_DEAD: the process at the other end of the transfer ended."""


class KeyExistsError(HbmeshError):
    """KEY_ALREADY_EXISTS: the key was to be new."""


class FutureTimeoutError(HbmeshError):
    """FUTURE_TIMEOUT: not ended within this wait, or nobody published in time."""


_CLASSES: Dict[StatusCode, Type[HbmeshError]] = {
    StatusCode.INVALID: InvalidError,
    StatusCode.NOT_FOUND: NotFoundError,
    StatusCode.OUT_OF_MEMORY: OutOfMemoryError,
    StatusCode.NOT_READY: NotReadyError,
    StatusCode.NOT_AUTHORIZED: NotAuthorizedError,
    StatusCode.TRY_AGAIN: TryAgainError,
    StatusCode.SHUTTING_DOWN: ShuttingDownError,
    StatusCode.CLIENT_WORKER_DISCONNECT: DisconnectedError,
    StatusCode.WORKER_TIMEOUT: DeadlineExceededError,
    StatusCode.NOT_SUPPORTED: NotSupportedError,
    StatusCode.NO_AVAILABLE_WORKER: NoWorkerError,
    StatusCode.RPC_CANCELLED: CancelledError,
    StatusCode.RPC_DEADLINE_EXCEEDED: DeadlineExceededError,
    StatusCode.RPC_UNAVAILABLE: UnavailableError,
    StatusCode.RPC_PEER_DEAD: PeerDeadError,
    StatusCode.KEY_ALREADY_EXISTS: KeyExistsError,
    StatusCode.FUTURE_TIMEOUT: FutureTimeoutError,
}


def error_of(code: int, message: str, *, key: Optional[str] = None, node: Optional[str] = None) -> HbmeshError:
    """The exception for a code: its own class where it has one."""
    status = StatusCode(code)
    return _CLASSES.get(status, HbmeshError)(status, message, key=key, node=node)
