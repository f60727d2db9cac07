/**
 * Goal: what a cluster keeps in the store is what docs/FORMATS.md says, under a prefix of its own, and nothing secret.
 * Method: a worker of the fake cluster joins, sets, and leaves, while its store is read; the document's table and
 * example are read and compared.
 */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { createVirtualClock } from "../../../src/base/clock.js";
import { type Member, MemberSchema } from "../../../src/gen/hbmesh/v1/cluster_pb.js";
import { createMemoryStore } from "../../../src/metadata/index.js";
import { read } from "../../contract/sources.js";
import { FakeCluster } from "./fake-cluster.js";

const document = read("docs/FORMATS.md");
const section = document.slice(document.indexOf("## The cluster in the store"));

describe("the cluster in the store", () => {
  it("has the keys of the document, and no others", async () => {
    const cluster = new FakeCluster();
    const worker = await cluster.start(1, { remoteH2dDeviceIds: [0, 1] });
    await cluster.drive(worker.sidecar.set(["key"], "x", 0, [5n]));
    const { entries } = await cluster.store.getPrefix("");
    const kinds = entries.map(({ key }) =>
      key.replace(/^hbmesh\/[^/]+\//, "hbmesh/<cluster>/").replace(/members\/\d+/, "members/<id>"),
    );
    const documented = [...section.matchAll(/^\| `(hbmesh\/[^`]+)` \|/gm)].map((match) => match[1] ?? "");
    expect(documented).toHaveLength(5);
    // The last one is there only while a member leaves.
    expect([...new Set(kinds)].sort()).toEqual(documented.filter((key) => !key.endsWith("/leaves")).sort());
    const own = entries.find(({ key }) => /\/members\/\d+$/.test(key));
    expect(fromBinary(MemberSchema, own?.value ?? new Uint8Array(0))).toMatchObject({
      workerAddress: worker.address,
      remoteH2dDeviceIds: [0, 1],
    });
    await cluster.close();
  });

  it("its example has the bytes of a member", () => {
    const lines = /<!-- example: member -->\n```\n([\s\S]*?)```/.exec(section)?.[1]?.trim().split("\n") ?? [];
    const bytes = Buffer.alloc(lines.reduce((sum, line) => sum + bytesOf(line).length, 0));
    for (const line of lines) {
      Buffer.from(bytesOf(line)).copy(bytes, Number.parseInt(line, 16));
    }
    const member: Omit<Member, "$typeName"> = {
      id: 3,
      workerAddress: "10.0.0.3:31501",
      linkAddress: "10.0.0.3:40001",
      transports: [{ $typeName: "hbmesh.v1.TransportAddress", name: "tcp", address: "10.0.0.3:40002" }],
      weight: 1,
      hostId: "host",
      deviceCount: 2,
      remoteH2dDeviceIds: [0, 1],
    };
    expect(bytes.toString("hex")).toBe(
      Buffer.from(toBinary(MemberSchema, { $typeName: "hbmesh.v1.Member", ...member })).toString("hex"),
    );
  });

  it("two clusters share a store without meeting", async () => {
    const store = createMemoryStore(createVirtualClock());
    await store.put("hbmesh/a/members/1", new Uint8Array(0));
    await store.put("hbmesh/ab/members/1", new Uint8Array(0));
    expect((await store.getPrefix("hbmesh/a/")).entries.map(({ key }) => key)).toEqual(["hbmesh/a/members/1"]);
  });
});

function bytesOf(line: string): number[] {
  const [, hex = ""] = /^[0-9a-f]+: ((?:[0-9a-f]{2} )+)\|/.exec(line) ?? [];
  return hex
    .trim()
    .split(" ")
    .map((each) => Number.parseInt(each, 16));
}
