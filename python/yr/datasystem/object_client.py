"""How objects are written, and where they are kept."""

from __future__ import annotations

from enum import Enum

__all__ = ["CacheType", "ConsistencyType", "WriteMode"]


class WriteMode(Enum):
    """Reliability of an object.

    hbmesh keeps objects in memory (and on local disks when memory runs short); there is no second-level cache. The
    modes that name one are accepted and keep the object in memory. Modes that end in EVICT make objects the first to be
    evicted; others are evicted only when nothing else is left.
    """

    NONE_L2_CACHE = 0
    WRITE_THROUGH_L2_CACHE = 1
    WRITE_BACK_L2_CACHE = 2
    NONE_L2_CACHE_EVICT = 3
    WRITE_BACK_L2_CACHE_EVICT = 4


class ConsistencyType(Enum):
    """Accepted for what imports it; hbmesh shows data only whole, and everywhere when a set has answered."""

    PRAM = 0
    CAUSAL = 1


class CacheType(Enum):
    """Where an object is kept. Workers decide that themselves; both are accepted."""

    MEMEORY = 0  # spelled so in the interface that this one follows
    MEMORY = 0
    DISK = 1
