"""HBM of one process to HBM of another, once: run it twice, with --role publish and --role subscribe, in either order,
on two nodes or on one with different devices.

    python -m hbmesh.sim publish_subscribe.py --role publish --host 127.0.0.1 --port 31501 --device 0
    python -m hbmesh.sim publish_subscribe.py --role subscribe --host 127.0.0.1 --port 31502 --device 1
"""

import argparse

try:
    import acl
except ModuleNotFoundError:
    acl = None  # --help needs none

from yr.datasystem.hetero_client import Blob, DeviceBlobList, HeteroClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--role", required=True, choices=["publish", "subscribe"])
parser.add_argument("--host", required=True)
parser.add_argument("--port", required=True, type=int)
parser.add_argument("--device", type=int, default=0)
args = parser.parse_args()
if acl is None:
    parser.error("no module acl here: without NPUs, run it as python -m hbmesh.sim SCRIPT, as above")

keys = ["layer0", "layer1"]
values = [bytes([number + 1]) * 4096 for number in range(len(keys))]
acl.init()
acl.rt.set_device(args.device)
pointers = [acl.rt.malloc(len(value), 0)[0] for value in values]
lists = [DeviceBlobList(args.device, [Blob(pointer, len(value))]) for pointer, value in zip(pointers, values)]

client = HeteroClient(args.host, args.port)
client.init()
if args.role == "publish":
    for pointer, value in zip(pointers, values):
        acl.rt.memcpy(pointer, len(value), acl.util.bytes_to_ptr(value), len(value), 1)
    futures = client.dev_publish(keys, lists)
else:
    futures = client.dev_subscribe(keys, lists)

# Of a publisher: the receiver has the bytes, and the memory may be used again. Of a subscriber: they are here.
for future in futures:
    future.get(60000)

if args.role == "subscribe":
    for pointer, value in zip(pointers, values):
        host, _ = acl.rt.malloc_host(len(value))
        acl.rt.memcpy(host, len(value), pointer, len(value), 2)
        if acl.util.ptr_to_bytes(host, len(value)) != value:
            raise SystemExit("received other bytes than were published")
        acl.rt.free_host(host)
print("OK")

for pointer in pointers:
    acl.rt.free(pointer)
acl.finalize()
