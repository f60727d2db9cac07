"""The older name of :mod:`yr.datasystem.hetero_client`; the same classes."""

from yr.datasystem.hetero_client import *  # noqa: F403
