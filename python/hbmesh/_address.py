"""Addresses, HOST:PORT: where workers are.

One grammar in all languages (src/base/address.ts says it), held by test/support/addresses.json. Each address has one
way of being written, so that equal ones compare equal.
"""

from __future__ import annotations

import re
import socket
from typing import NamedTuple, Optional, Tuple, Union

_PORT = re.compile(r"(?:0|[1-9][0-9]{0,4})\Z")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
# A name that ends so is read as an IPv4 address by some resolvers: 127.1, 0x7f000001.
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_NAME_LENGTH_MAX, _PORT_MAX = 253, 65_535

_ZONE = "has a zone (%), which means something on one host only"
_NEITHER = "has a host that is neither an IP address (IPv6 in brackets) nor a name"


class Address(NamedTuple):
    """Where a worker is.

    Attributes:
        host: an IP address without brackets, or a name.
        port: 0 to 65535.
    """

    host: str
    port: int


def parse_address(text: str, what: str = "address") -> Address:
    """Reads HOST:PORT. Raises ValueError naming `what`, what was given, and why it is none."""
    read = _read_address(text)
    if isinstance(read, str):
        raise ValueError(f"{what} {_quoted(text)} {read}: give HOST:PORT, as in 10.0.0.1:31501 or [::1]:31501")
    return read


def parse_host(text: str, what: str = "host") -> str:
    """Reads a host alone, IPv6 with brackets or without. Raises ValueError naming `what`, what was given, and why."""
    host = _read_host(text)
    if host is not None:
        return host
    why = "is neither an IP address nor a host name; a port goes apart"
    if text == "":
        why = "is empty"
    elif "%" in text:
        why = _ZONE
    raise ValueError(f"{what} {_quoted(text)} {why}: give a host as in 10.0.0.1, ::1 or node7")


def format_address(host: str, port: int) -> str:
    """The inverse of :func:`parse_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _read_address(text: str) -> Union[Address, str]:
    """The address, or why it is none."""
    if text == "":
        return "is empty"
    if "%" in text:
        return _ZONE
    parts = _split_port(text)
    if isinstance(parts, str):
        return parts
    host = _read_host(parts[0])
    if host is None:
        return _NEITHER
    if parts[1] == "":
        return "has no port"
    if _PORT.match(parts[1]) is None or int(parts[1]) > _PORT_MAX:
        return f"has a port that is no number from 0 to {_PORT_MAX}"
    return Address(host, int(parts[1]))


def _split_port(text: str) -> Union[Tuple[str, str], str]:
    if text.startswith("["):
        host, close, rest = text.partition("]")
        if close == "" or (rest != "" and not rest.startswith(":")):
            return _NEITHER
        return host + close, rest[1:]
    host, colon, port = text.rpartition(":")
    if colon != "" and (_read_ip6(text) is not None or _read_ip6(host) is not None):
        return "has an IPv6 address without brackets"
    return (text, "") if colon == "" else (host, port)


def _read_host(text: str) -> Optional[str]:
    """As it is written; None: it is no host."""
    if text.startswith("["):
        return _read_ip6(text[1:-1]) if text.endswith("]") else None
    six = _read_ip6(text)
    if six is not None:
        return six
    try:
        socket.inet_pton(socket.AF_INET, text)
        return text
    except (OSError, ValueError):  # ValueError: not ASCII, or a zero byte
        pass
    name = text.translate(_SMALL)
    labels = (name[:-1] if name.endswith(".") else name).split(".")
    fits = len(name) <= _NAME_LENGTH_MAX and all(_LABEL.match(label) for label in labels)
    return name if fits and _NUMBER.match(labels[-1]) is None else None


# Letters of ASCII only: str.lower() makes such of others, too.
_SMALL = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def _read_ip6(text: str) -> Optional[str]:
    try:
        packed = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return None
    if packed.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)


def _quoted(text: str) -> str:
    """What was given, without a password that somebody put before the host."""
    _, at, rest = text.rpartition("@")
    return f'"...@{rest}"' if at else f'"{text}"'
