"""The older name of :mod:`yr.datasystem.hetero_client`."""

from yr.datasystem.hetero_client import (
    Blob as Blob,
    DeviceBlobList as DeviceBlobList,
    Future as Future,
    HeteroClient as HeteroClient,
    MetaInfo as MetaInfo,
)
