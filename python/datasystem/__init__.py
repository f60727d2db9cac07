"""datasystem: the older name of :mod:`yr.datasystem`; the same classes."""

from yr.datasystem import *  # noqa: F401,F403
from yr.datasystem import __all__  # noqa: F401
