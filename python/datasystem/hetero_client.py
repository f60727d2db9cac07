"""The older name of :mod:`yr.datasystem.hetero_client`."""

from yr.datasystem.hetero_client import (
    Blob as Blob,
)
from yr.datasystem.hetero_client import (
    DeviceBlobList as DeviceBlobList,
)
from yr.datasystem.hetero_client import (
    Future as Future,
)
from yr.datasystem.hetero_client import (
    HeteroClient as HeteroClient,
)
from yr.datasystem.hetero_client import (
    MetaInfo as MetaInfo,
)
