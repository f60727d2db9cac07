/**
 * A client process on one of the hosts: does what the test says over the process channel, and answers each command by
 * its number. Every object's bytes follow from its key and a version, which stand in them, so that each read is checked
 * as a whole, and mixed or foreign bytes are seen. Runs from dist/, as users' processes do. Ends when the channel to
 * its parent closes.
 *
 * Started with: IP:PORT of its worker, and the file with the cluster's token. Connects when it is told to.
 */
import { readFileSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import { Blob, DeviceBlobList, HbmeshError, HeteroClient, SimDevice, StatusCode } from "../../dist/client/index.js";

const [address = "", tokenFile = ""] = process.argv.slice(2);
const [host, port] = address.split(":");
const token = readFileSync(tokenFile, "utf8").trim();
const devices = [new SimDevice(0), new SimDevice(1)];
const WRONG_BYTES = -1;
const LOOK_MS = 20;
const makeClient = () => new HeteroClient({ host, port: Number(port), connectTimeoutMs: 9_000 });
let client = makeClient();
let held;

function hashOf(text) {
  let hash = 2_166_136_261;
  for (const byte of Buffer.from(text)) {
    hash = Math.imul(hash ^ byte, 16_777_619);
  }
  return hash >>> 0;
}

/** Sizes are multiples of 4, the first blob has at least 8 bytes: key and version, then what follows from them. */
function contentOf(key, version, blob, bytes) {
  const words = new Uint32Array(bytes / 4);
  const keyHash = hashOf(key);
  let state = (keyHash ^ Math.imul(version, 2_654_435_761) ^ Math.imul(blob + 1, 40_503)) >>> 0;
  for (let index = 0; index < words.length; index += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    words[index] = state;
  }
  if (blob === 0) {
    words[0] = keyHash;
    words[1] = version;
  }
  const content = Buffer.from(words.buffer);
  // Never 0, as memory is that nothing was read into yet.
  content[bytes - 1] |= 1;
  return content;
}

/** Full of zeros: nothing that was there before passes for what is read. */
function memory(device, sizes) {
  const sim = devices[device];
  const blobs = sizes.map((bytes) => new Blob(sim.allocate(bytes), BigInt(bytes)));
  for (const { pointer, size } of blobs) {
    sim.copyIn(pointer, new Uint8Array(Number(size)));
  }
  const bytesOf = (blob) => Buffer.from(sim.copyOut(blob.pointer, blob.size));
  return {
    list: new DeviceBlobList(device, blobs),
    fill(key, version) {
      for (const [index, blob] of blobs.entries()) {
        sim.copyIn(blob.pointer, contentOf(key, version, index, Number(blob.size)));
      }
    },
    /** The version whose bytes these are, all of them; else WRONG_BYTES. */
    versionOf(key) {
      const version = bytesOf(blobs[0]).readUInt32LE(4);
      const isWhole = blobs.every((blob, index) =>
        bytesOf(blob).equals(contentOf(key, version, index, Number(blob.size))),
      );
      return isWhole ? version : WRONG_BYTES;
    },
    /** The last byte of each blob. */
    ends: () => blobs.map((blob) => sim.copyOut(blob.pointer + blob.size - 1n, 1n)[0]),
    free() {
      for (const blob of blobs) {
        sim.free(blob.pointer);
      }
    },
  };
}

/** What a call came to, key by key: also where all of it failed. */
async function outcomes(keys, call, more = () => ({})) {
  let result;
  try {
    result = await call();
  } catch (error) {
    if (!(error instanceof HbmeshError)) {
      throw error;
    }
    return keys.map((key) => ({ key, code: StatusCode[error.code], message: error.message }));
  }
  return result.statuses.map(({ code, message }, index) => ({
    key: keys[index],
    code: StatusCode[code],
    message,
    ...more(result, index),
  }));
}

async function get(keys, sizes, timeoutMs) {
  const targets = keys.map((_, index) => memory(1, sizes[index]));
  const lists = targets.map((target) => target.list);
  const found = await outcomes(
    keys,
    () => client.mGetH2D(keys, lists, { timeoutMs }),
    (result, index) => ({
      version: result.statuses[index].ok ? targets[index].versionOf(keys[index]) : 0,
      source: result.paths[0]?.source,
    }),
  );
  for (const target of targets) {
    target.free();
  }
  return found;
}

const commands = {
  async connect() {
    await client.close();
    client = makeClient();
    await client.init();
  },
  async set({ keys, sizes, versions, existence = "skip" }) {
    const sources = keys.map((key, index) => {
      const source = memory(0, sizes[index]);
      source.fill(key, versions[index]);
      return source;
    });
    const lists = sources.map((source) => source.list);
    const set = await outcomes(
      keys,
      () => client.mSetD2H(keys, lists, { existence, checksum: true }),
      (result, index) => ({ existed: result.existed[index] }),
    );
    for (const source of sources) {
      source.free();
    }
    return set;
  },
  get: ({ keys, sizes, timeoutMs = 0 }) => get(keys, sizes, timeoutMs),
  /**
   * Answers when the first bytes of the object are in this process's device memory, having stopped that process;
   * `isWhole`: too late. What the get comes to is asked with `heldGet`.
   */
  async stopInGet({ key, sizes, stop }) {
    const target = memory(1, sizes);
    const getting = outcomes([key], () => client.mGetH2D([key], [target.list], { timeoutMs: 0 }));
    let isOver = false;
    void getting.then(() => {
      isOver = true;
    });
    const hasBegun = () => target.ends().some((byte) => byte !== 0);
    while (!hasBegun() && !isOver) {
      await nextTurn();
      // Looks without giving way: a get takes only some milliseconds.
      for (const untilMs = performance.now() + LOOK_MS; !hasBegun() && performance.now() < untilMs; ) {}
    }
    process.kill(stop, "SIGSTOP");
    const isWhole = target.ends().every((byte) => byte !== 0);
    held = { getting, target, key };
    return { isWhole };
  },
  async heldGet() {
    const [outcome] = await held.getting;
    const version = outcome.code === "OK" ? held.target.versionOf(held.key) : 0;
    held.target.free();
    return { ...outcome, version };
  },
  delete: ({ keys }) =>
    outcomes(
      keys,
      () => client.delete(keys),
      (result, index) => ({ existed: result.existed[index] }),
    ),
  exist: ({ keys }) =>
    outcomes(
      keys,
      () => client.exist(keys),
      (result, index) => ({ presence: result.presences[index] }),
    ),
  explain: ({ key }) => client.explain(key),
  /**
   * The Connect API of a worker; undefined: no answer, or not in time. `at` is this host's own clock when the answer
   * was there.
   */
  async api({ worker = address, method, body = {}, timeoutMs = 1_000 }) {
    const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
    const signal = AbortSignal.timeout(timeoutMs);
    try {
      const request = { method: "POST", headers, body: JSON.stringify(body), signal };
      const response = await fetch(`http://${worker}/hbmesh.v1.${method}`, request);
      return await response.json();
    } catch {
      return undefined;
    }
  },
};

process.on("message", ({ id, command, args }) => {
  commands[command](args).then(
    (answer) => process.send({ id, answer }),
    (error) => {
      const code = error instanceof HbmeshError ? StatusCode[error.code] : "ERROR";
      process.send({ id, failure: { code, message: String(error.message) } });
    },
  );
});
process.once("disconnect", () => process.exit(1)); // its parent is gone
process.send({ ready: true });
