"""The older name of :mod:`yr.datasystem.ds_tensor_client`."""

from yr.datasystem.ds_tensor_client import (
    CopyRange as CopyRange,
)
from yr.datasystem.ds_tensor_client import (
    DsTensorClient as DsTensorClient,
)
