/**
 * Goal: with an SSD tier two real workers hold several times their arena, every object comes back whole at either of
 * them, also after the sidecar was killed; what people ask says where objects are; wrong options are refused with cause
 * and remedy. Method: arenas of 16 MiB and directories of the test's own; 48 MiB of objects whose SHA-256 is known are
 * set through one client and read back through both.
 */
import { createCipheriv, createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Blob, DeviceBlobList, type HeteroClient, SimDevice } from "../../src/client/index.js";
import { hbmesh, until } from "./commands.js";
import { codesOf, type Fixture, startFixture } from "./fixture.js";

const objectCount = 48;
const blobBytes = [700_000, 1, 348_575];
const objectBytes = blobBytes.reduce((sum, bytes) => sum + bytes, 0);

let directory: string;
let fixture: Fixture | undefined;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "hbmesh-ssd-test-"));
});

afterEach(async () => {
  try {
    await fixture?.close();
  } finally {
    fixture = undefined;
    rmSync(directory, { recursive: true });
  }
});

const key = (index: number): string => `kv-${index}`;

/** The same for the same index, and unlike any other. */
function bytesOf(index: number): Buffer {
  const iv = Buffer.alloc(16, index);
  return createCipheriv("aes-128-ctr", Buffer.alloc(16, 7), iv).update(Buffer.alloc(objectBytes));
}

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** One object's blobs in device memory, in pieces that don't lie side by side. */
class Memory {
  readonly list: DeviceBlobList;
  readonly #device: SimDevice;

  constructor(device: number) {
    this.#device = new SimDevice(device);
    this.list = new DeviceBlobList(
      device,
      blobBytes.map((bytes) => new Blob(this.#device.allocate(bytes), BigInt(bytes))),
    );
  }

  write(bytes: Buffer): void {
    let at = 0;
    for (const { pointer, size } of this.list.blobs) {
      this.#device.copyIn(pointer, bytes.subarray(at, at + Number(size)));
      at += Number(size);
    }
  }

  read(): Buffer {
    return Buffer.concat(this.list.blobs.map(({ pointer, size }) => this.#device.copyOut(pointer, size)));
  }

  free(): void {
    for (const { pointer } of this.list.blobs) {
      this.#device.free(pointer);
    }
  }
}

async function setAll(client: HeteroClient): Promise<void> {
  const memory = new Memory(0);
  for (let index = 0; index < objectCount; index += 1) {
    memory.write(bytesOf(index));
    const set = await client.mSetD2H([key(index)], [memory.list]);
    expect(codesOf(set), key(index)).toEqual(["OK"]);
  }
  memory.free();
}

/** Gets them `step` in one call, and compares. Returns how many calls said that bytes came from an SSD. */
async function expectAll(client: HeteroClient, step: number): Promise<number> {
  const memories = Array.from({ length: step }, () => new Memory(1));
  let spilled = 0;
  for (let first = 0; first < objectCount; first += step) {
    for (const memory of memories) {
      memory.write(Buffer.alloc(objectBytes));
    }
    const keys = memories.map((_, index) => key(first + index));
    const got = await client.mGetH2D(
      keys,
      memories.map(({ list }) => list),
    );
    got.throwIfFailed();
    expect(memories.map((memory) => sha256(memory.read()))).toEqual(
      keys.map((_, index) => sha256(bytesOf(first + index))),
    );
    expect(got.paths.reduce((sum, path) => sum + path.bytes, 0n)).toBe(BigInt(step * objectBytes));
    expect(got.path.includes("from SSD")).toBe(got.paths.some((path) => path.spilled));
    spilled += got.paths.some((path) => path.spilled) ? 1 : 0;
  }
  for (const memory of memories) {
    memory.free();
  }
  return spilled;
}

async function health(worker: string): Promise<Record<string, number>> {
  const { stdout } = await hbmesh("health", "--json", "--worker", worker);
  const facts = JSON.parse(stdout) as Record<string, unknown>;
  return Object.fromEntries(Object.entries(facts).map(([name, value]) => [name, Number(value)]));
}

describe("two workers with an SSD tier", () => {
  it("hold three times their arena, whole, also after the sidecar was killed", async () => {
    fixture = await startFixture({
      sharedMemorySizeMb: 16,
      workerArgs: (index) => ["--spill_directory", join(directory, `worker-${index}`), "--spill_mb", "64"],
    });
    const [address = "", other = ""] = fixture.addresses;
    const writer = await fixture.client(0);
    const reader = await fixture.client(1);
    await setAll(writer);
    expect(readdirSync(join(directory, "worker-0"))).toEqual(["hbmesh-spill"]);
    const full = await health(address);
    expect(full.objects).toBe(objectCount);
    expect(full.spilledObjects).toBeGreaterThan(objectCount / 2);
    expect(full.spilledBytes).toBe((full.spilledObjects ?? 0) * objectBytes);
    expect(full.spillBytes).toBeGreaterThan(60 * 2 ** 20);
    expect(await health(other)).toMatchObject({ objects: 0, spilledObjects: 0 });
    const explained = await hbmesh("explain", key(0), "--worker", other);
    expect(explained.stdout).toMatch(/"where":"ssd"/);
    expect(explained.stdout).toMatch(/"spillOffset":"\d+"/);

    expect(await expectAll(writer, 1)).toBeGreaterThan(objectCount / 2);
    expect(await expectAll(reader, 24)).toBeGreaterThan(0);

    const before = full.spilledObjects ?? 0;
    process.kill(fixture.cluster.workers[0]?.ready.sidecarPid ?? -1, "SIGKILL");
    await until("the next sidecar has adopted the objects", async () => {
      const now = await health(address);
      return now.ready === 1 && now.objects === objectCount && (now.spilledObjects ?? 0) > before / 2;
    });
    expect(await expectAll(reader, 1)).toBeGreaterThan(objectCount / 2);
    await writer.init();
    expect(await expectAll(writer, 24)).toBeGreaterThan(0);
    expect((await writer.delete(Array.from({ length: objectCount }, (_, index) => key(index)))).failedKeys).toEqual([]);
    await until("nothing is left", async () => (await health(address)).spilledObjects === 0);
    await fixture.close();
    fixture = undefined;
    expect(readdirSync(join(directory, "worker-0")), "the file went with the worker").toEqual([]);
  });
});

describe("options of the SSD tier that can't be", () => {
  const worker = (...args: string[]): ReturnType<typeof hbmesh> =>
    hbmesh("worker", "--worker_address", "127.0.0.1:31999", "--shared_memory_size_mb", "16", ...args);

  it.each([
    { args: ["--spill_directory", "x"], says: "--spill_directory takes --spill_mb N" },
    { args: ["--spill_mb", "8"], says: "--spill_mb takes --spill_directory DIR" },
    { args: ["--spill_directory", "x", "--spill_mb", "0"], says: "Give a whole number from 1 to" },
    {
      args: ["--eviction_high", "50", "--eviction_low", "60"],
      says: "--eviction_low 60 is more than --eviction_high 50",
    },
    { args: ["--eviction_high", "0"], says: "Give a whole number from 1 to 100" },
  ])("$args: exit code 2, and what would be right", async ({ args, says }) => {
    for (const refused of [await worker(...args), await hbmesh("dev", "--port", "0", ...args)]) {
      expect(refused).toMatchObject({ code: 2, stdout: "" });
      expect(refused.stderr).toContain(says);
    }
  });

  it("a directory that can't be used: exit code 1, cause and remedy", async () => {
    const parent = await worker("--spill_directory", join(directory, "no", "such"), "--spill_mb", "8");
    expect(parent.code).toBe(1);
    expect(parent.stderr).toContain(`making the spill directory ${join(directory, "no", "such")}: No such file`);
    expect(parent.stderr).toContain("give a directory in which this user may make files");
    writeFileSync(join(directory, "plain"), "a file");
    const plain = await worker("--spill_directory", join(directory, "plain"), "--spill_mb", "8");
    expect(plain.code).toBe(1);
    expect(plain.stderr).toContain("Not a directory");
    expect(existsSync(join(directory, "no"))).toBe(false);
  });
});
