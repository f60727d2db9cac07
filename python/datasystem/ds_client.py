"""The older name of :mod:`yr.datasystem.ds_client`."""

from yr.datasystem.ds_client import (
    DsClient as DsClient,
)
