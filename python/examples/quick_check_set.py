"""Quick check, node 1: puts a value into HBM and sets it as a host object. Then run quick_check_get.py on node 2.

python quick_check_set.py --host NODE1 --port 31501                      # on an NPU host
python -m hbmesh.sim quick_check_set.py --host 127.0.0.1 --port 31501    # without NPUs
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

value = b"quick check of RH2D" * 100
acl.init()
acl.rt.set_device(args.device)
pointer, _ = acl.rt.malloc(len(value), 0)
acl.rt.memcpy(pointer, len(value), acl.util.bytes_to_ptr(value), len(value), 1)

client = HeteroClient(args.host, args.port)
client.init()
client.mset_d2h(["key"], [DeviceBlobList(args.device, [Blob(pointer, len(value))])])
print("OK")

acl.rt.free(pointer)
acl.finalize()
