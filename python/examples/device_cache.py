"""HBM that several processes read: one runs with --role set and keeps its memory until Enter, others with --role get.

python -m hbmesh.sim device_cache.py --role set --host 127.0.0.1 --port 31501 --device 0
python -m hbmesh.sim device_cache.py --role get --host 127.0.0.1 --port 31502 --device 1
"""

import argparse
import sys

try:
    import acl
except ModuleNotFoundError:
    acl = None  # --help needs none

from yr.datasystem.hetero_client import Blob, DeviceBlobList, HeteroClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--role", required=True, choices=["set", "get"])
parser.add_argument("--host", required=True)
parser.add_argument("--port", required=True, type=int)
parser.add_argument("--device", type=int, default=0)
args = parser.parse_args()
if acl is None:
    parser.error("no module acl here: without NPUs, run it as python -m hbmesh.sim SCRIPT, as above")

value = b"weights!" * 512
acl.init()
acl.rt.set_device(args.device)
pointer, _ = acl.rt.malloc(len(value), 0)
lists = [DeviceBlobList(args.device, [Blob(pointer, len(value))])]

client = HeteroClient(args.host, args.port)
client.init()
if args.role == "set":
    acl.rt.memcpy(pointer, len(value), acl.util.bytes_to_ptr(value), len(value), 1)
    failed = client.dev_mset(["weights"], lists)
    print("OK" if not failed else f"failed: {failed}", flush=True)
    sys.stdin.readline()  # others read our memory meanwhile
    client.dev_delete(["weights"])
else:
    failed = client.dev_mget(["weights"], lists, 60000)
    host, _ = acl.rt.malloc_host(len(value))
    acl.rt.memcpy(host, len(value), pointer, len(value), 2)
    good = not failed and acl.util.ptr_to_bytes(host, len(value)) == value
    print("OK" if good else f"failed: {failed}")
    acl.rt.free_host(host)

acl.rt.free(pointer)
acl.finalize()
