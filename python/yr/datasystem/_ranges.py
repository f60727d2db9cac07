"""Reads parts of device objects. Workers move whole objects, so each is read to a scratch buffer on the reader's
device, and the part is copied from there: it costs the whole object's bytes on the wire."""

from __future__ import annotations

import time
from typing import Sequence

from hbmesh import BatchResult, Client, DeviceBlobList, MetaResult, StatusCode
from hbmesh.host import HostObjects

from .util import invalid

_POLL_SECONDS = 0.005  # between two looks for a key that is not there yet


def get_ranges(
    client: Client, keys: Sequence[str], lists: Sequence[DeviceBlobList], offsets: Sequence[int], timeout_ms: int
) -> BatchResult:
    """For each key, the bytes from its offset on into its blobs, one after the other. Raises INVALID for a part that
    the object doesn't have, before anything is read."""
    metas = _metas(client, keys, timeout_ms)
    known = [index for index, meta in enumerate(metas.metas) if meta is not None]
    sizes = [metas.metas[index].blob_sizes for index in known]  # type: ignore[union-attr]
    for index, each in zip(known, sizes):
        wanted = sum(blob.size for blob in lists[index].blobs)
        if offsets[index] < 0 or offsets[index] + wanted > sum(each):
            raise invalid(f"key {keys[index]!r} has {sum(each)} bytes, asked for {wanted} from {offsets[index]} on")
    if not known:
        return metas
    objects = HostObjects(client, lists[0].device_index)
    with objects.staged(sizes) as addresses:
        scratch = [DeviceBlobList.of(lists[0].device_index, *zip(row, each)) for row, each in zip(addresses, sizes)]
        got = client.dev_mget([keys[index] for index in known], scratch)
        for place, index in enumerate(known):
            if got.codes[place] == StatusCode.OK:
                at = addresses[place][0] + offsets[index]
                for blob in lists[index].blobs:
                    objects.memory.copy_device(blob.pointer, at, blob.size)
                    at += blob.size
    return metas.merged(got, known)


def _metas(client: Client, keys: Sequence[str], timeout_ms: int) -> MetaResult:
    """Shapes of the objects; waits for keys that are not there yet."""
    end = time.monotonic() + timeout_ms / 1000
    while True:
        metas = client.get_meta_info(keys)
        if StatusCode.NOT_FOUND not in metas.codes or time.monotonic() >= end:
            return metas
        time.sleep(_POLL_SECONDS)
