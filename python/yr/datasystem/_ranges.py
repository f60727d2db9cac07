"""Reads parts of device objects. Workers move whole objects, so each is read to a scratch buffer on the reader's
device, and the part is copied from there: it costs the whole object's bytes on the wire."""

from __future__ import annotations

from typing import List, Sequence

from hbmesh import BatchResult, Client, DeviceBlobList, MetaResult, StatusCode
from hbmesh.host import HostObjects, parts_of

from .util import invalid


def get_ranges(
    client: Client, keys: Sequence[str], lists: Sequence[DeviceBlobList], offsets: Sequence[int], timeout_ms: int
) -> BatchResult:
    """For each key, the bytes from its offset on into its blobs, one after the other. Raises INVALID for a part that
    the object doesn't have, before anything is read."""
    objects = HostObjects(client, lists[0].device_index)
    metas = client.get_meta_info(keys)
    missing = [key for key, code in zip(keys, metas.codes) if code == StatusCode.NOT_FOUND]
    if missing and timeout_ms > 0:
        _await(objects, missing, timeout_ms)
        metas = client.get_meta_info(keys)
    sizes = {index: meta.blob_sizes for index, meta in enumerate(metas.metas) if meta is not None}
    for index, each in sizes.items():
        wanted = sum(blob.size for blob in lists[index].blobs)
        if offsets[index] < 0 or offsets[index] + wanted > sum(each):
            raise invalid(f"key {keys[index]!r} has {sum(each)} bytes, asked for {wanted} from {offsets[index]} on")
    for part in parts_of(list(sizes), sizes):
        _get_part(objects, metas, part, [sizes[index] for index in part], lists, offsets)
    return metas


def _get_part(
    objects: HostObjects,
    metas: MetaResult,
    part: Sequence[int],
    sizes: Sequence[List[int]],
    lists: Sequence[DeviceBlobList],
    offsets: Sequence[int],
) -> None:
    with objects.staged(sizes) as staging:
        scratch = [DeviceBlobList.of(objects.device_index, *zip(row, each)) for row, each in zip(staging.rows, sizes)]
        call = objects.client.dev_mget_async([metas.keys[index] for index in part], scratch)
        got = objects.finish(call, staging)
        for index, code, row in zip(part, got.codes, staging.rows):
            if code != StatusCode.OK:
                continue
            at = row[0] + offsets[index]
            for blob in lists[index].blobs:
                objects.memory.copy_device(blob.pointer, at, blob.size)
                at += blob.size
    metas.merged(got, part)


def _await(objects: HostObjects, missing: Sequence[str], timeout_ms: int) -> None:
    """Waits until the keys are there, or the time is over: a get of one byte waits for its key, and is then refused for
    its shape."""
    with objects.staged([[1]] * len(missing)) as staging:
        single = [DeviceBlobList.of(objects.device_index, (row[0], 1)) for row in staging.rows]
        objects.finish(objects.client.dev_mget_async(missing, single, timeout_ms=timeout_ms), staging)
