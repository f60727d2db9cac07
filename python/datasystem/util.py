"""The older name of :mod:`yr.datasystem.util`; the same classes."""

from yr.datasystem.util import *  # noqa: F403
