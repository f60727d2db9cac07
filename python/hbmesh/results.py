"""What calls answer: a status for each key, always."""

from __future__ import annotations

import ctypes
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, TypeVar

from . import _native
from .errors import HbmeshError, StatusCode, error_of

B = TypeVar("B", bound="BatchResult")

_EXISTED = 1
_FALLBACK, _STAGED, _SPILLED = 1, 2, 4


class KeyStatus(NamedTuple):
    """What became of one key.

    Attributes:
        key: the key.
        code: OK, or why not.
        message: cause and remedy, "" when OK.
    """

    key: str
    code: StatusCode
    message: str

    @property
    def ok(self) -> bool:
        return self.code == StatusCode.OK


class PathRecord(NamedTuple):
    """What really carried bytes: one for each source and transport.

    Attributes:
        transport: "local", "shm", "tcp", "rdma" or "hccs".
        device_index: the device at this end.
        lanes: connections or copy threads.
        slices: pieces.
        bytes: carried.
        nanoseconds: how long it took.
        source: worker address that the bytes came from.
        fallback: not the transport that was asked for.
        staged: through a staging buffer instead of straight to its target.
        spilled: read from the worker's SSD.
    """

    transport: str
    device_index: int
    lanes: int
    slices: int
    bytes: int
    nanoseconds: int
    source: str
    fallback: bool
    staged: bool
    spilled: bool


class BatchResult:
    """Statuses of a call's keys, in their order. Truth value: did every key succeed.

    Attributes:
        keys: as they were given.
        codes: one :class:`StatusCode` number a key.
        bytes: of the objects, or moved; one a key.
        generations: of the objects; one a key.
        paths: what carried the bytes.
        node: the worker that answered.
    """

    def __init__(self, api: _native.Api, handle: Any, keys: Sequence[str], node: Optional[str]) -> None:
        """Takes over the result handle."""
        count = api.result_count(handle)
        self.keys = list(keys)
        self.node = node
        self.codes: List[int] = api.result_statuses(handle)[:count]
        self.bytes: List[int] = api.result_bytes(handle)[:count]
        self.generations: List[int] = api.result_generations(handle)[:count]
        self._flags: List[int] = api.result_flags(handle)[:count]
        self._messages = {
            index: api.result_message(handle, index).decode("utf-8", "replace")
            for index, code in enumerate(self.codes)
            if code != StatusCode.OK
        }
        self.paths = [_path_at(api, handle, index) for index in range(api.result_path_count(handle))]
        self._take_more(api, handle, count)
        api.result_free(handle)

    def _take_more(self, api: _native.Api, handle: Any, count: int) -> None:
        """What a kind of result has besides."""

    def __bool__(self) -> bool:
        return not self._messages

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[KeyStatus]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> KeyStatus:
        index = range(len(self.codes))[index]
        return KeyStatus(self.keys[index], StatusCode(self.codes[index]), self._messages.get(index, ""))

    def __repr__(self) -> str:
        failed = self.failed_keys
        said = f", failed: {failed[:3]}{' ...' if len(failed) > 3 else ''}" if failed else ""
        return f"<{type(self).__name__} of {len(self)} keys{said}>"

    @property
    def statuses(self) -> List[KeyStatus]:
        return list(self)

    @property
    def failed_keys(self) -> List[str]:
        """Keys whose status is not OK, in order."""
        return [self.keys[index] for index in self._messages]

    @property
    def path(self) -> str:
        """What carried the bytes, for people: "tcp from 10.0.0.2:31501, fallback"; "none" where nothing was."""
        return "; ".join(map(_said_of, self.paths)) or "none"

    def merged(self: B, later: "BatchResult", places: Sequence[int]) -> B:
        """This result with what a later call said of some of its keys: key i of `later` is key places[i] here."""
        for index, place in enumerate(places):
            self.codes[place] = later.codes[index]
            self.bytes[place] = later.bytes[index]
            self._messages.pop(place, None)
            if later.codes[index] != StatusCode.OK:
                self._messages[place] = later[index].message
        self._messages = dict(sorted(self._messages.items()))
        self.paths = self.paths + later.paths
        return self

    def note(self, index: int, code: StatusCode, message: str) -> None:
        """What became of a key, in place of what the call said."""
        self.codes[index], self._messages[index] = code, message

    def followed_by(self: B, later: "BatchResult") -> B:
        """This result with a later call's about other keys behind it."""
        self._messages.update({len(self.codes) + index: text for index, text in later._messages.items()})
        for name in ("keys", "codes", "bytes", "generations", "_flags", "paths"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        return self

    def error(self) -> Optional[HbmeshError]:
        """The first failing key's error, or None."""
        for index, message in self._messages.items():
            return error_of(self.codes[index], message, key=self.keys[index], node=self.node)
        return None

    def raise_for_failures(self: B) -> B:
        """Raises the first failing key's error; returns the result itself when there is none."""
        failure = self.error()
        if failure is not None:
            raise failure
        return self


class WriteResult(BatchResult):
    """Of sets and deletes."""

    @property
    def existed(self) -> List[bool]:
        """By key. Set: it was there and was left as it was. Delete: it was there."""
        return [bool(flags & _EXISTED) for flags in self._flags]


class ExistResult(BatchResult):
    """Of :meth:`Client.exist`. Truth value: is every key there."""

    @property
    def presences(self) -> List[str]:
        """By key: "HIT", "MISS" or "UNKNOWN". A fault is never a miss."""
        names = {StatusCode.OK: "HIT", StatusCode.NOT_FOUND: "MISS"}
        return [names.get(StatusCode(code), "UNKNOWN") for code in self.codes]

    def __repr__(self) -> str:
        counts = [(self.presences.count(name), name) for name in ("HIT", "MISS", "UNKNOWN")]
        said = ", ".join(f"{count} {name}" for count, name in counts if count)
        unknown = self.unknown()
        return f"<{type(self).__name__} of {len(self)} keys: {said}{f', {unknown.key!r} first' if unknown else ''}>"

    def unknown(self) -> Optional[HbmeshError]:
        """The error of the first key that nobody could tell of, or None."""
        for index, message in self._messages.items():
            if self.codes[index] != StatusCode.NOT_FOUND:
                return error_of(self.codes[index], message, key=self.keys[index], node=self.node)
        return None


class Meta(NamedTuple):
    """What is known of an object.

    Attributes:
        bytes: of all blobs.
        blob_sizes: bytes of each, in order.
        generation: changes when the object is replaced.
    """

    bytes: int
    blob_sizes: List[int]
    generation: int


class MetaResult(BatchResult):
    """Of :meth:`Client.get_meta_info`."""

    metas: List[Optional[Meta]]  #: by key; None where the status is not OK

    def _take_more(self, api: _native.Api, handle: Any, count: int) -> None:
        total = ctypes.c_uint32(0)
        sizes_at = api.result_blob_bytes(handle, ctypes.byref(total))
        sizes = sizes_at[: total.value] if total.value else []
        ends_at = api.result_blob_ends(handle)
        ends = [0] + (ends_at[:count] if ends_at else [0] * count)
        self.metas = [
            Meta(self.bytes[i], sizes[ends[i] : ends[i + 1]], self.generations[i])
            if self.codes[i] == StatusCode.OK
            else None
            for i in range(count)
        ]


class Health(NamedTuple):
    """What a worker says of itself.

    Attributes:
        ready: its sidecar answers, and the directory behind it.
        reason: why it isn't ready, else "".
        device_count: devices of the node.
        backend: "sim" or "ascend".
        session: this client's number there.
    """

    ready: bool
    reason: str
    device_count: int
    backend: str
    session: int


def _said_of(path: PathRecord) -> str:
    notes = [("from SSD", path.spilled), ("fallback", path.fallback), ("staged", path.staged)]
    where = f"{path.transport} from {path.source}" if path.source else path.transport
    return ", ".join([where, *[note for note, holds in notes if holds]])


def _path_at(api: _native.Api, handle: Any, index: int) -> PathRecord:
    path = _native.made(_native.Path_)
    api.result_path(handle, index, ctypes.byref(path))
    return PathRecord(
        api.transport_name(path.transport).decode(),
        path.device_index,
        path.lanes,
        path.slices,
        path.bytes,
        path.nanoseconds,
        path.source.decode(),
        bool(path.flags & _FALLBACK),
        bool(path.flags & _STAGED),
        bool(path.flags & _SPILLED),
    )
