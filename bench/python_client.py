"""What bench/python.mjs measures: the multi-buffer calls of yr.datasystem. Reads lines of JSON, as in {"call": "set",
"round": 1}, and answers each with how long the call took.

    python_client.py IP:PORT KEYS BLOBS BYTES
"""

import json
import sys
import time

import hbmesh
from yr.datasystem.hetero_client import HeteroClient
from yr.datasystem.kv_client import SetParam
from yr.datasystem.object_client import WriteMode

address, *shape = sys.argv[1:]
key_count, blob_count, blob_bytes = map(int, shape)
host, port = address.split(":")
client = HeteroClient(host, int(port))
client.init()
param = SetParam()
param.write_mode = WriteMode.NONE_L2_CACHE_EVICT

sizes = [[blob_bytes] * blob_count for _ in range(key_count)]
addresses = {}
for call, device in (("set", 0), ("get", 1)):
    start = hbmesh.SimDevice(device).allocate(key_count * blob_count * blob_bytes)
    blobs = [start + number * blob_bytes for number in range(key_count * blob_count)]
    addresses[call] = [blobs[key * blob_count : (key + 1) * blob_count] for key in range(key_count)]

for line in sys.stdin:
    asked = json.loads(line)
    call = asked["call"]
    keys = [f"py-{asked['round']}-{number}" for number in range(key_count)]
    hbmesh.set_device(1 if call == "get" else 0)
    started = time.perf_counter()
    if call == "set":
        client.mset_d2h_from_multi_buffers(keys, addresses[call], sizes, param)
    elif call == "get":
        failed = client.mget_h2d_from_multi_buffers(keys, addresses[call], sizes)
        assert failed == [], failed
    else:
        client.delete(keys)
    print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
client.close()
