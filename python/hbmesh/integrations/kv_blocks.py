"""Names and places of KV cache blocks; what the connectors share. Needs no engine."""

from __future__ import annotations

import hashlib
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple


class Piece(NamedTuple):
    """Part of every block of a layer: block b has `size` bytes at `start + b * step`."""

    start: int
    step: int
    size: int


def pieces_of(cache: Any, block_count: int) -> List[Piece]:
    """Where a layer's blocks are in its KV cache.

    Args:
        cache: a tensor with data_ptr(), element_size(), stride() and shape, one of whose dimensions is the block; or
            several of them (keys and values apart). Dimensions before that of the block give a piece each; those after
            it must be dense within a block, in any order.
        block_count: blocks of the cache.

    Raises:
        ValueError: no dimension has that many entries, or a block's bytes are not in one piece.
    """
    if isinstance(cache, (tuple, list)):
        return [piece for each in cache for piece in pieces_of(each, block_count)]
    shape, strides, width = [int(n) for n in cache.shape], [int(n) for n in cache.stride()], int(cache.element_size())
    if 0 in shape:
        raise ValueError(f"a KV cache of shape {shape} has no bytes: register it once it is allocated")
    if block_count not in shape:
        raise ValueError(f"a KV cache of shape {shape} has no dimension of {block_count} blocks")
    dimension = shape.index(block_count)
    size = width
    for length in shape[dimension + 1 :]:
        size *= length
    if strides[dimension] * width != size:
        raise ValueError(
            f"a KV cache of shape {shape} and strides {strides} has blocks that are not in one piece: use a "
            "layout whose blocks are contiguous"
        )
    offsets = [0]
    for length, stride in zip(shape[:dimension], strides[:dimension]):
        offsets = [offset + index * stride for offset in offsets for index in range(length)]
    return [Piece(int(cache.data_ptr()) + offset * width, size, size) for offset in offsets]


def place_blocks(pieces: Sequence[Piece], blocks: Sequence[int]) -> Tuple[List[List[int]], List[List[int]]]:
    """Addresses and sizes of blocks, as the multi-buffer calls take them: an object a block, a blob a piece."""
    sizes = [piece.size for piece in pieces]
    return [[piece.start + block * piece.step for piece in pieces] for block in blocks], [sizes] * len(blocks)


def rounds_of(keys: Sequence[str], blocks: Sequence[int], most: int) -> List[Tuple[List[str], List[int]]]:
    """Keys and their blocks in as few calls as may be: of at most so many, and none with a key twice. Requests of one
    step may begin with the same tokens."""
    calls: List[Tuple[List[str], List[int]]] = []
    places: Dict[str, int] = {}  # by key: the first call that has not got it
    for key, block in zip(keys, blocks):
        place = places.get(key, 0)
        while place < len(calls) and len(calls[place][0]) >= most:
            place += 1
        if place == len(calls):
            calls.append(([], []))
        calls[place][0].append(key)
        calls[place][1].append(block)
        places[key] = place + 1
    return calls


def digest(*words: object) -> str:
    """16 characters that stand for these words in a key."""
    return hashlib.sha256("\0".join(map(str, words)).encode()).hexdigest()[:16]


def hash_text(block_hash: Any) -> str:
    """An engine's block hash (bytes, a number, or an object with hash_value) as text that a key may have."""
    value = getattr(block_hash, "hash_value", block_hash)
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    return format(int(value) & (2**128 - 1), "x")


class KeyNames:
    """Keys of one model's blocks: ``kv:<model digest>:<rank>-<ranks>:<layer digest>:<block hash>``. They have only
    characters that every key rule allows.

    Args:
        model: what must be the same for caches to be exchangeable: name, data type, block size.
        ranks: tensor parallel size.
    """

    def __init__(self, *model: object, ranks: int = 1) -> None:
        self._model = digest(*model)
        self._ranks = ranks
        self._layers: Dict[str, str] = {}

    def key(self, rank: int, layer_name: str, block_hash: Any) -> str:
        layer = self._layers.get(layer_name)
        if layer is None:
            layer = self._layers[layer_name] = digest(layer_name)
        return f"kv:{self._model}:{rank}-{self._ranks}:{layer}:{hash_text(block_hash)}"
