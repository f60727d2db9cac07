"""The older name of :mod:`yr.datasystem.kv_client`; the same classes."""

from yr.datasystem.kv_client import *  # noqa: F403
