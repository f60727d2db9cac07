/**
 * Goal: the port keeps order and bounds when the queue is full, and tells of its end once.
 * Method: a native port of this test's own whose queue has room for as many messages as the test says; virtual time.
 */
import { describe, expect, it } from "vitest";
import { createVirtualClock } from "../../../src/base/clock.js";
import { StatusCode } from "../../../src/base/errors.js";
import type { NativeAddon } from "../../../src/sidecar/addon.js";
import { connectSidecar, parseTransports } from "../../../src/sidecar/native-port.js";
import type { PortMessage } from "../../../src/sidecar/port.js";
import { sidecarArguments } from "../../../src/sidecar/sidecar-process.js";

type ControlOptions = Parameters<NativeAddon["connectControl"]>[0];

const address = "127.0.0.1:31501";
const message = (id: number, bytes = 0): PortMessage => ({
  id: BigInt(id),
  op: 68,
  flags: 0,
  code: 0,
  count: 0,
  args: [0n, 0n, 0n, 0n],
  payload: new Uint8Array(bytes),
});

class FakeControl {
  room = Number.POSITIVE_INFINITY;
  readonly sent: bigint[] = [];
  closed = false;
  failure: Error | undefined;
  options: ControlOptions | undefined;

  readonly addon: Pick<NativeAddon, "connectControl"> = {
    connectControl: async (options) => {
      this.options = options;
      return {
        deviceCount: 8,
        backend: "sim",
        transports: "tcp=127.0.0.1:4000 shm=hbmesh-shm/1",
        storeFd: 9,
        send: (sent) => {
          if (this.failure !== undefined) {
            throw this.failure;
          }
          if (this.sent.length >= this.room) {
            return false;
          }
          this.sent.push(sent.id);
          return true;
        },
        close: () => {
          this.closed = true;
        },
      };
    },
  };
}

describe("the port to the sidecar", () => {
  it("says what the sidecar has", async () => {
    const port = await connectSidecar(address, { addon: new FakeControl().addon });
    expect(port.info).toEqual({
      deviceCount: 8,
      backend: "sim",
      transports: [
        { name: "tcp", address: "127.0.0.1:4000" },
        { name: "shm", address: "hbmesh-shm/1" },
      ],
    });
    expect(port.storeFd).toBe(9);
    expect(parseTransports("")).toEqual([]);
  });

  it("keeps what the queue has no room for, in order, up to its limits", async () => {
    const control = new FakeControl();
    const clock = createVirtualClock();
    const port = await connectSidecar(address, {
      addon: control.addon,
      clock,
      backlogMessagesMax: 3,
      backlogBytesMax: 100,
    });
    control.room = 1;
    port.send(message(1));
    port.send(message(2, 60));
    expect(() => port.send(message(3, 41))).toThrow(/is full, and 1 messages of 60 bytes wait/);
    port.send(message(4, 40));
    port.send(message(5));
    expect(() => port.send(message(6))).toThrow(expect.objectContaining({ code: StatusCode.TRY_AGAIN }));
    control.room = 2;
    await clock.advance(1);
    expect(control.sent).toEqual([1n, 2n]);
    control.room = 10;
    port.send(message(7)); // doesn't overtake
    await clock.advance(1);
    expect(control.sent).toEqual([1n, 2n, 4n, 5n, 7n]);
    expect(clock.pendingTimers).toBe(0);
  });

  it("hands messages on in order, also those that came before there was a handler", async () => {
    const control = new FakeControl();
    const port = await connectSidecar(address, { addon: control.addon });
    control.options?.onMessages([message(1), message(2)]);
    const seen: bigint[] = [];
    port.onMessage((each) => seen.push(each.id));
    control.options?.onMessages([message(3)]);
    expect(seen).toEqual([1n, 2n, 3n]);
  });

  it("tells of its end once, whoever ends it, and refuses to send after that", async () => {
    for (const end of ["sidecar", "close"] as const) {
      const control = new FakeControl();
      const port = await connectSidecar(address, { addon: control.addon });
      const reasons: Error[] = [];
      port.onClose((reason) => reasons.push(reason));
      if (end === "sidecar") {
        control.options?.onClosed("the sidecar process ended");
      }
      port.close();
      control.options?.onClosed("again");
      const code = end === "sidecar" ? StatusCode.RPC_PEER_DEAD : StatusCode.SHUTTING_DOWN;
      expect(reasons).toEqual([expect.objectContaining({ code, node: address })]);
      expect(() => port.send(message(1))).toThrow(expect.objectContaining({ code }));
      expect(control.closed).toBe(true);
    }
  });

  it("a kept message that can't be sent ends the session with the cause", async () => {
    const control = new FakeControl();
    const clock = createVirtualClock();
    const port = await connectSidecar(address, { addon: control.addon, clock });
    const reasons: Error[] = [];
    port.onClose((reason) => reasons.push(reason));
    control.room = 0;
    port.send(message(1));
    control.failure = Object.assign(new Error("larger than the queue"), { code: StatusCode.OUT_OF_RANGE });
    await clock.advance(1);
    expect(reasons).toEqual([expect.objectContaining({ code: StatusCode.OUT_OF_RANGE })]);
    expect(control.closed).toBe(true);
  });
});

describe("the sidecar's flags", () => {
  const flags = {
    workerAddress: address,
    devices: 4,
    arenaBytes: 2 ** 20 + 1,
    transport: "tcp",
    lanes: 2,
    spinMicros: 0,
    orphanGraceMs: 0,
    keyRule: "strict",
    hugePages: false,
  } as const;

  it("are spelled with underscores; settings that weren't given are left out", () => {
    expect(sidecarArguments(flags, false)).toEqual([
      "--worker_address=127.0.0.1:31501",
      "--devices=4",
      "--arena_mb=2",
      "--transport=tcp",
      "--lanes=2",
      "--spin_us=0",
      "--orphan_grace_ms=0",
      "--key_rule=strict",
      "--huge_pages=false",
      "--ready_fd=3",
    ]);
    const more = { copyThreads: 1, sliceBytesMax: 64 * 1024, replicaPercent: 25 };
    expect(sidecarArguments({ ...flags, ...more }, true)).toEqual(
      expect.arrayContaining(["--copy_threads=1", "--slice_kb=64", "--replica_percent=25", "--adopt_fd=4"]),
    );
    const room = { evictionHighPercent: 70, evictionLowPercent: 60, spillDirectory: "/ssd", spillBytes: 2 ** 20 + 1 };
    expect(sidecarArguments({ ...flags, ...room }, false)).toEqual(
      expect.arrayContaining(["--eviction_high=70", "--eviction_low=60", "--spill_directory=/ssd", "--spill_mb=2"]),
    );
    expect(sidecarArguments({ ...flags, spillBytes: 0 }, false)).toEqual(sidecarArguments(flags, false));
  });
});
