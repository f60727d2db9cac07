"""Quick check, node 2: reads what quick_check_set.py has set on node 1 into HBM here, compares, and deletes it.

python quick_check_get.py --host NODE2 --port 31501                      # on an NPU host
python -m hbmesh.sim quick_check_get.py --host 127.0.0.1 --port 31502    # without NPUs
"""

import argparse

try:
    import acl
except ModuleNotFoundError:
    acl = None  # --help needs none

from yr.datasystem.hetero_client import Blob, DeviceBlobList, HeteroClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--host", required=True, help="the worker of this node")
parser.add_argument("--port", required=True, type=int)
parser.add_argument("--device", type=int, default=0)
args = parser.parse_args()
if acl is None:
    parser.error("no module acl here: without NPUs, run it as python -m hbmesh.sim SCRIPT, as above")

expected = b"quick check of RH2D" * 100
size = len(expected)
acl.init()
acl.rt.set_device(args.device)
pointer, _ = acl.rt.malloc(size, 0)

client = HeteroClient(args.host, args.port, enable_remote_h2d=True)
client.init()
failed = client.mget_h2d(["key"], [DeviceBlobList(args.device, [Blob(pointer, size)])], 60000)
if failed:
    raise SystemExit(f"could not get {failed}")

host, _ = acl.rt.malloc_host(size)
acl.rt.memcpy(host, size, pointer, size, 2)
if acl.util.ptr_to_bytes(host, size) != expected:
    raise SystemExit("got other bytes than were set")
client.delete(["key"])
print("OK")

acl.rt.free_host(host)
acl.rt.free(pointer)
acl.finalize()
