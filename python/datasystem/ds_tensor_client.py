"""The older name of :mod:`yr.datasystem.ds_tensor_client`; the same classes."""

from yr.datasystem.ds_tensor_client import *  # noqa: F403
