"""The older name of :mod:`yr.datasystem.object_client`; the same classes."""

from yr.datasystem.object_client import *  # noqa: F403
