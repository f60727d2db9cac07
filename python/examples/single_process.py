"""HBM to a host object and back in one process, with blobs: one key has three pieces of HBM.

python -m hbmesh.sim single_process.py --host 127.0.0.1 --port 31501
"""

import argparse

try:
    import acl
except ModuleNotFoundError:
    acl = None  # --help needs none

from yr.datasystem.hetero_client import Blob, DeviceBlobList, HeteroClient
from yr.datasystem.kv_client import SetParam
from yr.datasystem.object_client import WriteMode

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--host", required=True)
parser.add_argument("--port", required=True, type=int)
parser.add_argument("--device", type=int, default=0)
args = parser.parse_args()
if acl is None:
    parser.error("no module acl here: without NPUs, run it as python -m hbmesh.sim SCRIPT, as above")

sizes = [1024, 4096, 100]
acl.init()
acl.rt.set_device(args.device)
sources = [acl.rt.malloc(size, 0)[0] for size in sizes]
targets = [acl.rt.malloc(size, 0)[0] for size in sizes]
for number, (pointer, size) in enumerate(zip(sources, sizes)):
    acl.rt.memset(pointer, size, number + 1, size)

client = HeteroClient(args.host, args.port)
client.init()
key = client.generate_key("example")
param = SetParam()
param.write_mode = WriteMode.NONE_L2_CACHE_EVICT
client.mset_d2h([key], [DeviceBlobList(args.device, [Blob(*each) for each in zip(sources, sizes)])], param)
failed = client.mget_h2d([key], [DeviceBlobList(args.device, [Blob(*each) for each in zip(targets, sizes)])], 0)
if failed:
    raise SystemExit(f"could not get {failed}")

for number, (pointer, size) in enumerate(zip(targets, sizes)):
    host, _ = acl.rt.malloc_host(size)
    acl.rt.memcpy(host, size, pointer, size, 2)
    if acl.util.ptr_to_bytes(host, size) != bytes([number + 1]) * size:
        raise SystemExit(f"blob {number} has other bytes")
    acl.rt.free_host(host)
print(client.exist([key]), client.get_meta_info([key], False)[1][0].blob_size_list)
client.delete([key])
print("OK")

for pointer in sources + targets:
    acl.rt.free(pointer)
acl.finalize()
