"""The older name of :mod:`yr.datasystem.util`."""

from yr.datasystem.util import (
    DsError as DsError,
    FutureTimeoutException as FutureTimeoutException,
    Status as Status,
)
