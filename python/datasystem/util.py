"""The older name of :mod:`yr.datasystem.util`."""

from yr.datasystem.util import (
    DsError as DsError,
)
from yr.datasystem.util import (
    FutureTimeoutException as FutureTimeoutException,
)
from yr.datasystem.util import (
    Status as Status,
)
