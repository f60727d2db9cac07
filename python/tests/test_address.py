"""Goal: an address is read alike everywhere, and written in one way; a worker is found by IPv6 and by name.
Method: the table that the TypeScript and C++ parsers are tested with, too (test/support/addresses.json); a real worker.
"""

import json
from pathlib import Path

import pytest

import hbmesh
from hbmesh import _address, config
from yr.datasystem.hetero_client import HeteroClient

TABLE = json.loads((Path(__file__).parents[2] / "test/support/addresses.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", TABLE["accepted"], ids=lambda row: row["text"])
def test_accepted(row):
    assert _address.parse_address(row["text"]) == (row["host"], row["port"])
    assert _address.format_address(row["host"], row["port"]) == row["canonical"]
    assert _address.parse_address(row["canonical"]) == (row["host"], row["port"])


@pytest.mark.parametrize("row", TABLE["refused"], ids=lambda row: row["text"])
def test_refused(row):
    with pytest.raises(ValueError) as failure:
        _address.parse_address(row["text"], "worker address")
    text = str(failure.value)
    assert text.startswith('worker address "') and f'" {row["why"]}' in text
    assert "give HOST:PORT, as in 10.0.0.1:31501 or [::1]:31501" in text and "secret" not in text


@pytest.mark.parametrize("row", TABLE["hosts"], ids=lambda row: row["text"])
def test_hosts(row):
    client = hbmesh.Client(row["text"], 31501)
    assert client.address == _address.format_address(row["host"], 31501)


@pytest.mark.parametrize("row", TABLE["refusedHosts"], ids=lambda row: row["text"])
def test_refused_hosts(row):
    with pytest.raises(ValueError) as failure:
        _address.parse_host(row["text"])
    assert f'" {row["why"]}' in str(failure.value)
    if row["text"]:
        with pytest.raises(ValueError, match="^host "):
            hbmesh.Client(row["text"], 31501)
        with pytest.raises(RuntimeError, match=r"^code: \[2\], msg: \[.*host "):
            HeteroClient(row["text"], 31501)


def test_a_worker_address_has_a_port_where_a_worker_may_be():
    assert config.split_address("[0::1]:31501") == ("::1", 31501)
    with pytest.raises(ValueError, match='^worker address "127.0.0.1:0" has port 0, where no worker is'):
        config.split_address("127.0.0.1:0")


@pytest.mark.parametrize("host", ["::1", "[::1]", "0:0:0:0:0:0:0:1"])
def test_a_worker_at_ip6_is_found(worker_at_ip6, host):
    port = config.split_address(worker_at_ip6)[1]
    with hbmesh.Client(host, port) as client:
        assert client.address == worker_at_ip6 == f"[::1]:{port}"
        assert client.health_check().ready
    client = HeteroClient(host, port)
    client.init()
    assert client.exist(["nothing"]) == [False]
    client.close()


def test_the_environment_names_a_worker_at_ip6(worker_at_ip6, monkeypatch):
    monkeypatch.setenv("DS_WORKER_ADDR", f"{worker_at_ip6}\n")
    with hbmesh.Client.from_environment() as client:
        assert client.address == worker_at_ip6
