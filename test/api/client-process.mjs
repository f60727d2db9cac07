/**
 * A client process of its own, for tests that kill one or need several: does what its parent says over the process
 * channel, one command at a time or many at once, and answers each by its number. Memory is filled with one 32-bit word
 * over and over, so that mixed bytes are seen. Runs from dist/, as users' processes do. Ends when the channel to its
 * parent closes.
 *
 * Started with: IP:PORT of its worker. Says { ready: true } when it is connected.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { Blob, DeviceBlobList, HbmeshError, HeteroClient, SimDevice, StatusCode } from "../../dist/client/index.js";

const [host, port] = (process.argv[2] ?? "").split(":");
const client = new HeteroClient({ host, port: Number(port) });
const tickets = [];

function words(bytes, word) {
  const one = Buffer.alloc(4);
  one.writeUInt32LE(word >>> 0);
  return Buffer.alloc(bytes, one);
}

/** Device memory with these blobs (sizes: multiples of 4), full of `word`. */
function memory(device, sizes, word) {
  const sim = new SimDevice(device);
  const blobs = sizes.map((bytes) => new Blob(sim.allocate(bytes), BigInt(bytes)));
  for (const blob of blobs) {
    sim.copyIn(blob.pointer, words(Number(blob.size), word));
  }
  return {
    list: new DeviceBlobList(device, blobs),
    /** The word that all blobs are full of; -1: not one word. */
    word() {
      const contents = blobs.map((blob) => Buffer.from(sim.copyOut(blob.pointer, blob.size)));
      const first = contents[0].readUInt32LE(0);
      return contents.every((bytes) => bytes.equals(words(bytes.length, first))) ? first : -1;
    },
    lastByte: (blob = 0) => sim.copyOut(blobs.at(blob).pointer + blobs.at(blob).size - 1n, 1n)[0],
    free() {
      for (const blob of blobs) {
        sim.free(blob.pointer);
      }
    },
  };
}

const codes = (result) => result.statuses.map((status) => StatusCode[status.code]);

async function ending(futures) {
  const ends = [];
  for (const future of futures) {
    ends.push(
      await future.get(600_000).then(
        () => "OK",
        (error) => StatusCode[error.code],
      ),
    );
  }
  return ends;
}

/** Each answers with plain data. The memory of those that don't wait stays until the process ends. */
const commands = {
  async publish({ keys, device, sizes, word }) {
    const lists = keys.map(() => memory(device, sizes, word).list);
    const futures = await client.devPublish(keys, lists);
    return futures.map((future) => future.done);
  },
  /**
   * Answers when the subscription was sent; with `stop`, after it stopped that process when the first bytes had come.
   */
  async subscribe({ keys, device, sizes, stop }) {
    const targets = keys.map(() => memory(device, sizes, 0));
    const futures = await client.devSubscribe(
      keys,
      targets.map((target) => target.list),
      { timeoutMs: 600_000 },
    );
    if (stop !== undefined) {
      while (targets[0].lastByte() === 0 && !futures[0].done) {
        await nextTurn();
      }
      process.kill(stop, "SIGSTOP");
    }
    return futures.map((future) => future.done);
  },
  async receive({ keys, device, sizes }) {
    const targets = keys.map(() => memory(device, sizes, 0));
    const ends = await ending(
      await client.devSubscribe(
        keys,
        targets.map((target) => target.list),
      ),
    );
    return { ends, words: targets.map((target) => target.word()) };
  },
  async devSet({ keys, device, sizes, word }) {
    return codes(
      await client.devMSet(
        keys,
        keys.map(() => memory(device, sizes, word).list),
      ),
    );
  },
  async reserve({ layers, device, sizes }) {
    const targets = Array.from({ length: layers }, () => memory(device, sizes, 0));
    const ticket = await client.reserveLayers(targets.map((target) => target.list));
    tickets.push({ ticket, targets });
    return ticket.text;
  },
  /** Stops that process when the first bytes of the last ticket's layer have come; answers whether some are missing. */
  async stopInLayer({ layer, stop }) {
    const target = tickets.at(-1).targets[layer];
    while (target.lastByte() === 0) {
      await nextTurn();
    }
    if (stop !== undefined) {
      process.kill(stop, "SIGSTOP");
    }
    return target.lastByte(-1) === 0;
  },
  async push({ ticket, layer, device, sizes, word }) {
    return codes(await client.push(ticket, layer, memory(device, sizes, word).list));
  },
  async set({ keys, device, sizes, values, existence, checksum }) {
    const sources = keys.map((_, index) => memory(device, sizes[index], values[index]));
    const lists = sources.map((source) => source.list);
    const result = await client.mSetD2H(keys, lists, { existence, checksum });
    for (const source of sources) {
      source.free();
    }
    return { codes: codes(result), existed: result.existed };
  },
  async get({ keys, device, sizes }) {
    const targets = keys.map((_, index) => memory(device, sizes[index], 0));
    const result = await client.mGetH2D(
      keys,
      targets.map((target) => target.list),
    );
    const values = targets.map((target) => target.word());
    for (const target of targets) {
      target.free();
    }
    return { codes: codes(result), values, spilled: result.paths.some((path) => path.spilled) };
  },
  async exist({ keys }) {
    const result = await client.exist(keys);
    return { codes: codes(result), presences: result.presences };
  },
  async delete({ keys }) {
    const result = await client.delete(keys);
    return { codes: codes(result), existed: result.existed };
  },
};

commands.close = () => client.close();

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
await client.init();
process.send({ ready: true });
