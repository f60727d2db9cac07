"""Stop: a request to end early, for work on another thread that uses a caller's memory. Internal.

Thread rule: any thread.
"""

from __future__ import annotations

import threading
from typing import Any, Optional, TypeVar

from .errors import StatusCode, error_of
from .futures import TransferFuture, finish
from .results import BatchResult

R = TypeVar("R", bound=BatchResult)


class Stop:
    """One request to end, and the call that it cancels: that of the work at the moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._begun = False
        self._call: Optional[TransferFuture[Any]] = None

    def begin(self) -> bool:
        """The work has got its thread. False: it was asked to stop before, and must not begin."""
        with self._lock:
            self._begun = not self._asked
            return self._begun

    def ask(self) -> bool:
        """Asks the work to end soon. False: it has not begun, and never will."""
        with self._lock:
            self._asked = True
            if self._call is not None:
                self._call.cancel()
            return self._begun

    def check(self) -> None:
        """Raises RPC_CANCELLED once it was asked. For the work, between its steps."""
        if self._asked:
            raise error_of(StatusCode.RPC_CANCELLED, "the call was cancelled by its caller")

    def finish(self, call: "TransferFuture[R]") -> R:
        """The end of a call of the work, as :func:`finish`; what asks the work to stop cancels the call."""
        with self._lock:
            self._call = call
            if self._asked:
                call.cancel()
        try:
            return finish(call)
        finally:
            with self._lock:
                self._call = None
