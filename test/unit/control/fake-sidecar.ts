/**
 * A sidecar without native code: an object table in memory behind a SidecarPort, with the client calls that the real
 * one offers (set, get, delete), as far as the control process can tell the difference. Bytes are not moved: an
 * object's "bytes" are a text that says who set it. Several share a FakeFabric, by which one reads from another.
 */
import { HbmeshError, StatusCode } from "../../../src/base/errors.js";
import type { SpawnedSidecar } from "../../../src/control/contract.js";
import { FLAG_MORE, FLAG_REPLY, LISTED_COPIES, Op } from "../../../src/control/layout-constants.js";
import {
  decodeHeld,
  decodeResults,
  encodeKeys,
  encodeResults,
  RESULT_RECORD_BYTES,
  type ResultRecord,
} from "../../../src/decision/index.js";
import type { PortMessage, SidecarPort } from "../../../src/sidecar/port.js";
import { FakeMemory, type FakeObject, type Family } from "./fake-memory.js";
import {
  codes,
  commitsOf,
  decodeFound,
  describeHeld,
  emptyAnswer,
  type FakeAnswer,
  type FoundRecord,
  lookupPayload,
  partsOf,
  placesOf,
} from "./fake-payloads.js";

export { FakeMemory };

export type Existence = 0 | 1 | 2;

/** Sidecars by worker address. */
export type FakeFabric = Map<string, FakeSidecar>;

interface Pending {
  onReply: (message: PortMessage) => void;
  fail: (reason: Error) => void;
}

/** Keys of one reply to kListHeld. */
const LIST_PART_KEYS = 3;
const NO_ARGS: PortMessage["args"] = [0n, 0n, 0n, 0n];

export class FakeSidecar implements SpawnedSidecar {
  readonly storeFd = 7;
  readonly port: SidecarPort;
  readonly memory: FakeMemory;
  /** What kPeers told last: member id to worker address. */
  peers = new Map<number, string>();
  selfId = 0;
  stopped = false;
  /** Called before a commit is sent; for tests that interfere there. */
  beforeCommit: (() => Promise<void>) | undefined;
  /** Sets that don't replace reserve and commit in one question; this is what their copy takes after the answer. */
  atOnce: (() => Promise<void>) | undefined;
  /** Called when it is asked what it holds. */
  onList: (() => void) | undefined;
  /** What it tells of any key when it is asked to explain one; undefined: it knows no such question. */
  detail: string | undefined;
  /** Questions that it takes but does not answer. */
  readonly deafTo = new Set<number>();
  readonly #fabric: FakeFabric;
  readonly #address: string;
  readonly #pending = new Map<bigint, Pending>();
  /** Sent before anyone listened. */
  readonly #early: PortMessage[] = [];
  #onMessage: (message: PortMessage) => void = (message) => void this.#early.push(message);
  #onClose: (reason: Error) => void = () => {};
  #lastId = 0n;
  #dead = false;

  constructor(address: string, memory: FakeMemory, fabric: FakeFabric) {
    this.memory = memory;
    this.#address = address;
    this.#fabric = fabric;
    for (const [slot, object] of memory.objects) {
      if (object.state !== "sealed") {
        memory.objects.delete(slot);
      }
    }
    fabric.set(address, this);
    this.port = {
      info: { deviceCount: 8, backend: "sim", transports: [{ name: "tcp", address: `${address}0` }] },
      send: (message) => this.#receive(message),
      onMessage: (handler) => {
        this.#onMessage = handler;
        for (const message of this.#early.splice(0)) {
          handler(message);
        }
      },
      onClose: (handler) => {
        this.#onClose = handler;
        if (this.#dead) {
          handler(new Error("the sidecar was gone already"));
        }
      },
      close: () => this.die("the port was closed"),
    };
  }

  /** As a SIGKILL: what is sealed stays in the memory. */
  die(reason: string): void {
    if (!this.#dead) {
      this.#dead = true;
      if (this.#fabric.get(this.#address) === this) {
        this.#fabric.delete(this.#address);
      }
      for (const pending of this.#pending.values()) {
        pending.fail(new Error(reason));
      }
      this.#pending.clear();
      this.#onClose(new Error(reason));
    }
  }

  async stop(): Promise<void> {
    this.stopped = true;
    this.die("stopped");
  }

  /** mSetD2H: every key with the same blob sizes. */
  async set(
    keys: readonly string[],
    content: string,
    existence: Existence = 0,
    blobSizes: bigint[] = [10n, 20n],
    family: Family = 0,
  ): Promise<FakeAnswer[]> {
    const answers: FakeAnswer[] = keys.map(() => emptyAnswer());
    const asked: number[] = [];
    const slots = new Map<number, FakeObject>();
    keys.forEach((key, index) => {
      const sealed = existence === 2 ? undefined : this.memory.sealedByKey(key);
      if (sealed !== undefined) {
        answers[index] = {
          ...emptyAnswer(),
          existed: existence === 0,
          code: existence === 0 ? 0 : StatusCode.KEY_ALREADY_EXISTS,
        };
      } else {
        const object: FakeObject = {
          key,
          family,
          slot: this.memory.nextSlot++,
          generation: 0n,
          blobSizes,
          content,
          state: "writing",
        };
        this.memory.objects.set(object.slot, object);
        slots.set(index, object);
        asked.push(index);
      }
    });
    if (this.atOnce !== undefined && existence !== 2 && family === 0) {
      await this.#setAtOnce(keys, asked, slots, answers, existence);
      return answers;
    }
    const reserved = await this.#askRecords(Op.reserve, keys, asked, new Uint8Array(0), BigInt(existence), family);
    const committing = asked.filter((index, at) => !this.#endUnlessOk(reserved[at], answers, index, slots, existence));
    for (const [at, index] of asked.entries()) {
      const object = slots.get(index);
      if (object !== undefined) {
        object.generation = (reserved[at] as ResultRecord).generation;
        object.state = "written";
      }
    }
    await this.beforeCommit?.();
    const records = commitsOf(committing.map((index) => slots.get(index) as FakeObject));
    const committed = await this.#askRecords(Op.commit, keys, committing, records, BigInt(existence), family);
    for (const [at, index] of committing.entries()) {
      if (!this.#endUnlessOk(committed[at], answers, index, slots, existence)) {
        this.memory.seal(slots.get(index) as FakeObject);
      }
    }
    return answers;
  }

  async #setAtOnce(
    keys: readonly string[],
    asked: readonly number[],
    slots: Map<number, FakeObject>,
    answers: FakeAnswer[],
    existence: Existence,
  ): Promise<void> {
    const records = commitsOf(asked.map((index) => slots.get(index) as FakeObject));
    const committed = await this.#askRecords(Op.commit, keys, asked, records, BigInt(existence));
    const confirmed: FakeObject[] = [];
    for (const [at, index] of asked.entries()) {
      const object = slots.get(index) as FakeObject;
      if (!this.#endUnlessOk(committed[at], answers, index, slots, existence)) {
        object.generation = (committed[at] as ResultRecord).generation;
        object.state = "confirmed";
        confirmed.push(object);
      }
    }
    await this.atOnce?.();
    for (const object of confirmed) {
      if (object.dropped?.includes(object.generation) === true) {
        this.memory.objects.delete(object.slot);
      }
      this.memory.seal(object);
    }
  }

  /** mGetH2D. */
  async get(
    keys: readonly string[],
    timeoutMs = 0,
    blobSizes: bigint[] = [10n, 20n],
    family: Family = 0,
  ): Promise<FakeAnswer[]> {
    const answers: FakeAnswer[] = keys.map((key) => {
      const sealed = this.memory.sealedByKey(key);
      return sealed === undefined || sealed.family !== family
        ? emptyAnswer()
        : { ...emptyAnswer(), content: sealed.content };
    });
    const asked = keys.map((_, index) => index).filter((index) => answers[index]?.content === undefined);
    if (asked.length === 0) {
      return answers;
    }
    let part = 0;
    const payload = lookupPayload(
      asked.map((index) => keys[index] as string),
      blobSizes,
    );
    const last = await this.#ask(
      Op.lookup,
      payload,
      asked.length,
      [BigInt(timeoutMs), 0n, 0n, BigInt(family)],
      (reply) => {
        part++;
        for (const found of decodeFound(reply.payload)) {
          const index = asked[found.keyIndex] as number;
          answers[index] = { ...this.#read(keys[index] as string, found), part };
        }
      },
    );
    if (last.code !== StatusCode.OK) {
      throw new HbmeshError(last.code, Buffer.from(last.payload).toString());
    }
    return answers;
  }

  async delete(keys: readonly string[], family: Family = 0): Promise<ResultRecord[]> {
    const indexes = keys.map((_, index) => index);
    return this.#askRecords(Op.remove, keys, indexes, new Uint8Array(0), 0n, family);
  }

  /** As a reader that offers what it read to others (shareReplica). */
  async share(key: string, record: ResultRecord, content: string, family: Family = 2): Promise<ResultRecord> {
    if (this.#dead) {
      throw new Error("the sidecar is gone");
    }
    const slot = this.memory.nextSlot++;
    const { generation, bytes } = record;
    const isCopy = true;
    const object: FakeObject = { key, family, slot, generation, blobSizes: [bytes], content, state: "written", isCopy };
    this.memory.objects.set(slot, object);
    const [result] = await this.#askRecords(Op.addLocation, [key], [0], commitsOf([object]), 0n, family);
    if (result?.code === StatusCode.OK) {
      object.state = "sealed";
    } else {
      this.memory.objects.delete(slot);
    }
    return result as ResultRecord;
  }

  /** As objects that expired or were evicted: gone here, and told without an answer. */
  lose(keys: readonly string[]): void {
    const gone = keys.map((key) => this.memory.sealedByKey(key) as FakeObject);
    for (const { slot } of gone) {
      this.memory.objects.delete(slot);
    }
    const payload = Buffer.concat([encodeKeys(keys), placesOf(gone, true)]);
    const count = keys.length;
    this.#send({ id: ++this.#lastId, op: Op.forgetLocations, flags: 0, code: 0, count, args: NO_ARGS, payload });
  }

  /** The JSON document that a client of this sidecar gets. */
  async explain(key: string): Promise<Record<string, unknown>> {
    const reply = await this.request(Op.explainOwner, encodeKeys([key]));
    if (reply.code !== StatusCode.OK) {
      throw new HbmeshError(reply.code, Buffer.from(reply.payload).toString());
    }
    return JSON.parse(Buffer.from(reply.payload).toString()) as Record<string, unknown>;
  }

  async presence(keys: readonly string[]): Promise<ResultRecord[]> {
    const indexes = keys.map((_, index) => index);
    return this.#askRecords(Op.presence, keys, indexes, new Uint8Array(0), 0n);
  }

  /** The raw reply to any request; for requests that a sidecar should not send. */
  request(op: number, payload: Uint8Array, args: PortMessage["args"] = [0n, 0n, 0n, 0n]): Promise<PortMessage> {
    return this.#ask(op, payload, 0, args, () => {});
  }

  /** As kReportMissing: this location had nothing. */
  reportMissing(key: string, record: ResultRecord): void {
    const payload = Buffer.concat([encodeKeys([key]), encodeResults([record])]);
    this.#send({
      id: ++this.#lastId,
      op: Op.reportMissing,
      flags: 0,
      code: 0,
      count: 1,
      args: [0n, 0n, 0n, 0n],
      payload,
    });
  }

  #endUnlessOk(
    result: ResultRecord | undefined,
    answers: FakeAnswer[],
    index: number,
    slots: Map<number, FakeObject>,
    existence: Existence,
  ): boolean {
    const code = result?.code ?? StatusCode.RPC_UNAVAILABLE;
    const left = result?.existed === true && existence !== 2;
    if (code === StatusCode.OK && !left) {
      return false;
    }
    answers[index] = { ...emptyAnswer(), code, existed: left && code === StatusCode.OK };
    const object = slots.get(index);
    slots.delete(index);
    if (object !== undefined) {
      this.memory.objects.delete(object.slot);
    }
    return true;
  }

  #read(key: string, found: FoundRecord): FakeAnswer {
    const answer = { ...emptyAnswer(), code: found.code, message: found.message, slices: found.slices };
    if (found.code !== StatusCode.OK) {
      return answer;
    }
    for (const { member, slot } of found.result.locations) {
      const holder = this.#fabric.get(this.peers.get(member) ?? "");
      const object = holder?.memory.objects.get(slot);
      if (object?.generation === found.result.generation && object.key === key) {
        return { ...answer, content: object.content };
      }
    }
    return { ...answer, code: StatusCode.TRY_AGAIN };
  }

  async #askRecords(
    op: number,
    keys: readonly string[],
    indexes: readonly number[],
    records: Uint8Array,
    arg: bigint,
    family: Family = 0,
  ): Promise<ResultRecord[]> {
    if (indexes.length === 0) {
      return [];
    }
    const payload = Buffer.concat([encodeKeys(indexes.map((index) => keys[index] as string)), records]);
    const reply = await this.#ask(op, payload, indexes.length, [arg, BigInt(family), 0n, 0n], () => {});
    if (reply.code !== StatusCode.OK) {
      throw new HbmeshError(reply.code, Buffer.from(reply.payload).toString());
    }
    return decodeResults(reply.payload.subarray(0, indexes.length * RESULT_RECORD_BYTES));
  }

  #ask(
    op: number,
    payload: Uint8Array,
    count: number,
    args: PortMessage["args"],
    onPart: (m: PortMessage) => void,
  ): Promise<PortMessage> {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      if (this.#dead) {
        return reject(new Error("the sidecar is gone"));
      }
      this.#pending.set(id, {
        fail: reject,
        onReply: (message) => {
          if (message.code === StatusCode.OK) {
            onPart(message);
          }
          if ((message.flags & FLAG_MORE) === 0) {
            this.#pending.delete(id);
            resolve(message);
          }
        },
      });
      this.#send({ id, op, flags: 0, code: 0, count, args, payload });
    });
  }

  #send(message: PortMessage): void {
    if (!this.#dead) {
      const copy = { ...message, payload: new Uint8Array(message.payload) };
      queueMicrotask(() => this.#onMessage(copy));
    }
  }

  #receive(message: PortMessage): void {
    if (this.#dead) {
      throw new HbmeshError(StatusCode.RPC_PEER_DEAD, "the sidecar is gone");
    }
    // In order, but never within the sender's call.
    queueMicrotask(() => {
      if (this.#dead) {
        return;
      }
      if ((message.flags & FLAG_REPLY) !== 0) {
        this.#pending.get(message.id)?.onReply(message);
      } else {
        this.#serve(message);
      }
    });
  }

  #serve(message: PortMessage): void {
    if (this.deafTo.has(message.op)) {
      return;
    }
    switch (message.op) {
      case Op.drop:
        return this.#reply(
          message,
          codes(decodeHeld(message.payload).map(({ slot, generation }) => this.memory.drop(slot, generation))),
        );
      case Op.describe:
        return this.#reply(message, describeHeld(this.memory.objects, message.payload));
      case Op.listHeld:
        return this.#listHeld(message);
      case Op.explain:
        return this.#explain(message);
      case Op.peers:
        return this.#takePeers(Buffer.from(message.payload).toString());
      case Op.stats:
        return this.#reply(
          message,
          Buffer.from(
            BigUint64Array.of(1000n, 30n, BigInt(this.memory.objects.size), 2n, 0n, 0n, 0n, 50n, 20n, 1n).buffer,
          ),
        );
      case Op.shutdown:
      case Op.reach:
        return this.#reply(message, new Uint8Array(0));
      default:
        throw new Error(`the fake sidecar knows no operation ${message.op}`);
    }
  }

  #explain(message: PortMessage): void {
    const code = this.detail === undefined ? StatusCode.NOT_SUPPORTED : StatusCode.OK;
    this.#reply(message, Buffer.from(this.detail ?? ""), { code });
  }

  #listHeld(message: PortMessage): void {
    this.onList?.();
    for (const family of [0, 1, 2] as const) {
      const all = [...this.memory.objects.values()];
      const held = all.filter(
        ({ state, family: its }) => (state === "sealed" || state === "confirmed") && its === family,
      );
      for (const part of partsOf(held, LIST_PART_KEYS)) {
        const payload = Buffer.concat([encodeKeys(part.map(({ key }) => key)), commitsOf(part)]);
        const copies = part[0]?.isCopy === true ? LISTED_COPIES : 0n;
        this.#reply(message, payload, { more: true, args: [0n, BigInt(family), copies, 0n] });
      }
    }
    this.#reply(message, new Uint8Array(0));
  }

  #takePeers(text: string): void {
    this.peers = new Map();
    for (const line of text.trim().split("\n")) {
      const [first = "", second = ""] = line.split(" ");
      if (first === "self") {
        this.selfId = Number(second);
      } else {
        this.peers.set(Number(first), second);
      }
    }
  }

  #reply(
    message: PortMessage,
    payload: Uint8Array,
    { more = false, args = NO_ARGS, code = 0 }: { more?: boolean; args?: PortMessage["args"]; code?: number } = {},
  ): void {
    const flags = more ? FLAG_REPLY | FLAG_MORE : FLAG_REPLY;
    this.#send({ id: message.id, op: message.op, flags, code, count: 0, args, payload });
  }
}
