/**
 * A simulated sidecar: an object table behind a SidecarPort, and the client calls that the real one offers (set, get,
 * delete), as far as the control process can tell the difference. It outlives its control process, as the real one
 * does, and a new control process can take it over.
 */
import { HbmeshError, StatusCode } from "../base/errors.js";
import {
  FLAG_MORE,
  FLAG_REPLY,
  HELD_SEALED,
  LISTED_COPIES,
  Op,
  SIDECAR_STATS_BYTES,
} from "../control/layout-constants.js";
import { LOCATION_STAYS } from "../control/owner-checks.js";
import { decodeHeld, decodeResults, encodeKeys, RESULT_RECORD_BYTES, type ResultRecord } from "../decision/index.js";
import type { PortMessage } from "../sidecar/port.js";
import { OBJECT_BYTES, type SimMemory, type SimObject } from "./memory.js";
import { commitsOf, decodeFound, type FoundKey, lookupPayload, placesOf, wordsOf } from "./payloads.js";
import { SimPort } from "./port.js";
import type { SimProcess } from "./process.js";
import { decodeTake, takeOne, type WantedObject } from "./taking.js";

/** `content` with OK. */
export interface SimAnswer {
  code: StatusCode;
  existed: boolean;
  content: number | undefined;
  message: string;
  /** Answered by this host alone, without asking an owner. */
  isLocal?: boolean;
}

/** How sidecars reach each other's memory. */
export interface SimFabric {
  /** The object at that worker: undefined if it does not have it. Rejects if the worker can't be reached. */
  read(reader: SimProcess, address: string, slot: number, generation: bigint): Promise<SimObject | undefined>;
}

/** Keys of one reply to kListHeld (native/sidecar/control_service.cc). */
const LIST_PART_KEYS = 4_096;
/** One of so many reads from others leaves a copy. */
const COPY_EVERY = 3;
const NO_ARGS: PortMessage["args"] = [0n, 0n, 0n, 0n];
/** Of every simulated worker: as much as is ever wanted. */
const ROOM_BYTES = 1n << 40n;

interface Pending {
  onPart: (message: PortMessage) => void;
  resolve: (message: PortMessage) => void;
}

export class SimSidecar {
  readonly process: SimProcess;
  readonly memory: SimMemory;
  readonly #fabric: SimFabric;
  readonly #pending = new Map<bigint, Pending>();
  readonly #peers = new Map<number, string>();
  #peersText = "";
  #port: SimPort | undefined;
  #lastId = 0n;
  /** It is about to leave and takes no new objects. */
  #isLeaving = false;
  #setsUnderWay = 0;
  readonly #keepsCopies: boolean;
  /** Keys of which a copy is under way. */
  readonly #copying = new Set<string>();

  /** `keepsCopies`: a part of what is read from others stays here. */
  constructor(process: SimProcess, memory: SimMemory, fabric: SimFabric, keepsCopies = false) {
    this.#keepsCopies = keepsCopies;
    this.process = process;
    this.memory = memory;
    this.#fabric = fabric;
    memory.dropUnsealed();
    process.onDeath(() => this.#port?.end("the sidecar died"));
  }

  /** A control process connects, the first one or one that takes it over. Ends with the connection before. */
  connect(control: SimProcess): SimPort {
    this.#port?.end("another control process took over");
    this.#failPending("the control process is gone");
    this.#isLeaving = false;
    const port = new SimPort(this.process, control, (message) => this.#receive(message));
    this.#port = port;
    port.onEnd(() => {
      if (this.#port === port) {
        this.#port = undefined;
        this.process.enter(() => this.#failPending("the control process is gone"));
      }
    });
    return port;
  }

  /**
   * mSetD2H with existence skip (0) or replace (2). What is not there yet is reserved and committed in one question
   * (`atOnce`), or in two.
   */
  async set(
    keys: readonly string[],
    content: number,
    existence: 0 | 2 = 0,
    atOnce = existence === 0,
  ): Promise<SimAnswer[]> {
    if (this.#isLeaving) {
      return keys.map(() => ({ code: StatusCode.SCALING, existed: false, content: undefined, message: "it leaves" }));
    }
    this.#setsUnderWay++;
    return this.#set(keys, content, existence, atOnce).finally(() => this.#setsUnderWay--);
  }

  async #set(keys: readonly string[], content: number, existence: 0 | 2, atOnce: boolean): Promise<SimAnswer[]> {
    const answers = keys.map(
      (): SimAnswer => ({ code: StatusCode.OK, existed: false, content: undefined, message: "" }),
    );
    const objects = new Map<number, SimObject>();
    keys.forEach((key, index) => {
      if (existence === 0 && this.memory.sealed(key) !== undefined) {
        Object.assign(answers[index] as SimAnswer, { existed: true, isLocal: true });
      } else {
        objects.set(index, this.memory.allocate(key, content));
      }
    });
    const takeGeneration = (object: SimObject, result: ResultRecord): void => {
      object.generation = result.generation;
    };
    if (!atOnce) {
      await this.#step(Op.reserve, keys, objects, existence, answers, takeGeneration);
    }
    await this.#step(Op.commit, keys, objects, existence, answers, (object, result) => {
      if (atOnce) {
        takeGeneration(object, result);
      }
      this.memory.seal(object);
    });
    return answers;
  }

  /**
   * Asks for the objects that are left, enters what was refused, and drops those; for the others `then` is called at
   * once.
   */
  async #step(
    op: number,
    keys: readonly string[],
    objects: Map<number, SimObject>,
    existence: 0 | 2,
    answers: SimAnswer[],
    then: (object: SimObject, result: ResultRecord) => void,
  ): Promise<void> {
    const asked = [...objects.keys()];
    if (asked.length === 0) {
      return;
    }
    const batch = encodeKeys(asked.map((index) => keys[index] as string));
    const records = op === Op.commit ? commitsOf([...objects.values()]) : new Uint8Array(0);
    // The reply is looked at where it arrives, as native code does: what follows it must find the objects sealed.
    const take = (reply: PortMessage): void => {
      const isOk = reply.code === StatusCode.OK;
      const results = isOk ? decodeResults(reply.payload.subarray(0, asked.length * RESULT_RECORD_BYTES)) : [];
      const text = isOk ? "" : Buffer.from(reply.payload).toString("utf8");
      asked.forEach((index, at) => {
        const object = objects.get(index) as SimObject;
        const result = results[at];
        const code = result?.code ?? reply.code;
        const left = result?.existed === true && existence === 0;
        if (result === undefined || code !== StatusCode.OK || left) {
          answers[index] = { code, existed: left, content: undefined, message: text };
          objects.delete(index);
          this.memory.drop(object);
        } else {
          then(object, result);
        }
      });
    };
    await this.#ask(op, Buffer.concat([batch, records]), asked.length, [BigInt(existence), 0n, 0n, 0n], take);
  }

  /** mGetH2D. */
  async get(keys: readonly string[], waitMs = 0): Promise<SimAnswer[]> {
    const answers = keys.map((key): SimAnswer => {
      const content = this.memory.sealed(key)?.content;
      return { code: StatusCode.OK, existed: false, content, message: "", isLocal: content !== undefined };
    });
    const asked = keys.map((_, index) => index).filter((index) => answers[index]?.content === undefined);
    if (asked.length === 0) {
      return answers;
    }
    const reads: Promise<void>[] = [];
    const payload = lookupPayload(asked.map((index) => keys[index] as string));
    const take = (reply: PortMessage): void => {
      for (const found of reply.code === StatusCode.OK ? decodeFound(reply.payload) : []) {
        const index = asked[found.keyIndex] as number;
        reads.push(
          this.#read(keys[index] as string, found).then((answer) => {
            answers[index] = answer;
          }),
        );
      }
    };
    const last = await this.#ask(Op.lookup, payload, asked.length, [BigInt(waitMs), 0n, 0n, 0n], take);
    if (last.code !== StatusCode.OK) {
      const message = Buffer.from(last.payload).toString("utf8");
      for (const index of asked) {
        answers[index] = { code: last.code, existed: false, content: undefined, message };
      }
    }
    await Promise.all(reads);
    return answers;
  }

  async delete(keys: readonly string[]): Promise<SimAnswer[]> {
    let answers: SimAnswer[] = [];
    const take = (reply: PortMessage): void => {
      const results = reply.code === StatusCode.OK ? decodeResults(reply.payload) : [];
      answers = keys.map((_, index) => ({
        code: results[index]?.code ?? reply.code,
        existed: results[index]?.existed ?? false,
        content: undefined,
        message: reply.code === StatusCode.OK ? "" : Buffer.from(reply.payload).toString("utf8"),
      }));
    };
    await this.#ask(Op.remove, encodeKeys(keys), keys.length, NO_ARGS, take);
    return answers;
  }

  /** As objects whose room others take: gone here, and their owners are told. Returns the keys that were here. */
  evict(keys: readonly string[]): string[] {
    const gone = keys.filter((key) => this.memory.sealed(key) !== undefined);
    for (const key of gone) {
      const object = this.memory.sealed(key) as SimObject;
      this.memory.drop(object);
      this.#tell(Op.forgetLocations, key, { generation: object.generation, member: 0, slot: object.slot }, true);
    }
    return gone;
  }

  /** Goes through the locations; one that has nothing is reported. */
  async #read(key: string, { code, message, result }: FoundKey): Promise<SimAnswer> {
    if (code !== StatusCode.OK) {
      return { code, existed: false, content: undefined, message };
    }
    let why = "no location has the object any more";
    for (const { member, slot } of result.locations) {
      try {
        const object = await this.#fabric.read(this.process, this.#addressOf(member), slot, result.generation);
        if (object?.key === key) {
          void this.#keepCopy(object);
          return { code: StatusCode.OK, existed: false, content: object.content, message: "" };
        }
        this.#tell(Op.reportMissing, key, { generation: result.generation, member, slot });
      } catch (reason) {
        why = HbmeshError.from(reason).message;
      }
    }
    return { code: StatusCode.TRY_AGAIN, existed: false, content: undefined, message: why };
  }

  #tell(op: number, key: string, place: { generation: bigint; member: number; slot: number }, whole = false): void {
    const payload = Buffer.concat([encodeKeys([key]), placesOf([place], whole)]);
    this.#port?.toControl({ id: ++this.#lastId, op, flags: 0, code: 0, count: 1, args: NO_ARGS, payload });
  }

  /** Resolves with the last part of the reply, whatever its code; RPC_UNAVAILABLE if there is no control process. */
  #ask(
    op: number,
    payload: Uint8Array,
    count: number,
    args: PortMessage["args"],
    onPart: (message: PortMessage) => void,
  ): Promise<PortMessage> {
    const id = ++this.#lastId;
    const message: PortMessage = { id, op, flags: 0, code: 0, count, args, payload };
    return new Promise((resolve) => {
      this.#pending.set(id, { onPart, resolve });
      if (this.#port === undefined) {
        this.#end(id, failure(message, "the control process is gone"));
      } else {
        this.#port.toControl(message);
      }
    });
  }

  #receive(message: PortMessage): void {
    if ((message.flags & FLAG_REPLY) !== 0) {
      if ((message.flags & FLAG_MORE) !== 0) {
        this.#pending.get(message.id)?.onPart(message);
      } else {
        this.#end(message.id, message);
      }
      return;
    }
    switch (message.op) {
      case Op.drop:
        for (const { slot, generation } of decodeHeld(message.payload)) {
          this.memory.dropVersion(slot, generation);
        }
        return this.#reply(message, wordsOf(Array.from({ length: message.count }, () => StatusCode.OK)));
      case Op.describe:
        return this.#reply(message, this.#describe(message.payload));
      case Op.stats: {
        const figures = new Uint8Array(SIDECAR_STATS_BYTES);
        new DataView(figures.buffer).setBigUint64(80, this.#isLeaving ? 0n : ROOM_BYTES, true);
        return this.#reply(message, figures);
      }
      case Op.drain:
        this.#isLeaving = message.args[0] === 1n;
        return this.#reply(message, EMPTY, FLAG_REPLY, [BigInt(this.#setsUnderWay), 0n, 0n, 0n]);
      case Op.take:
        return void this.#take(message);
      case Op.listHeld:
        return this.#listHeld(message);
      case Op.peers:
        this.#peersText = Buffer.from(message.payload).toString();
        return;
      case Op.reach:
        return undefined;
      default:
        return this.#reply(message, new Uint8Array(0));
    }
  }

  #describe(payload: Uint8Array): Uint8Array {
    const objects = decodeHeld(payload).map(({ slot, generation }) => this.memory.at(slot, generation));
    const isThere = objects.map((object) => object !== undefined);
    const sizes = isThere.filter((there) => there).map(() => OBJECT_BYTES);
    return Buffer.concat([
      wordsOf(isThere.map((there) => (there ? StatusCode.OK : StatusCode.NOT_FOUND))),
      wordsOf(isThere.map((there) => (there ? 1 : 0))),
      new Uint8Array(BigUint64Array.from(sizes).buffer),
      wordsOf(objects.map((object) => (object?.isSealed === true ? HELD_SEALED : 0))),
    ]);
  }

  async #take(message: PortMessage): Promise<void> {
    const steps = {
      memory: this.memory,
      read: ({ member, slot, generation }: WantedObject) =>
        this.#fabric.read(this.process, this.#addressOf(member), slot, generation),
      addLocation: (object: SimObject, then: (result: ResultRecord) => void) =>
        this.#addLocation(object, LOCATION_STAYS, then),
    };
    const wanted = decodeTake(message.payload, message.count);
    const codes = await Promise.all(
      wanted.map((object) => (this.#isLeaving ? StatusCode.SCALING : takeOne(object, steps))),
    );
    this.#reply(message, wordsOf(codes));
  }

  async #addLocation(object: SimObject, stays: number, then: (result: ResultRecord) => void): Promise<StatusCode> {
    let code: StatusCode = StatusCode.RPC_UNAVAILABLE;
    const payload = Buffer.concat([encodeKeys([object.key]), commitsOf([object])]);
    await this.#ask(Op.addLocation, payload, 1, [BigInt(stays), 0n, 0n, 0n], (reply) => {
      const [result] = reply.code === StatusCode.OK ? decodeResults(reply.payload) : [];
      code = result?.code ?? reply.code;
      if (result?.code === StatusCode.OK) {
        then(result);
      }
    });
    return code;
  }

  /** As native/sidecar/replicas.h does: what was read stays here when its owner has taken it up. */
  async #keepCopy({ key, generation, content }: SimObject): Promise<void> {
    const isWanted = this.#keepsCopies && (content + this.process.host) % COPY_EVERY === 0;
    if (!isWanted || this.#isLeaving || this.#copying.has(key) || this.memory.sealed(key) !== undefined) {
      return;
    }
    this.#copying.add(key);
    const copy = this.memory.allocate(key, content);
    Object.assign(copy, { generation, isCopy: true });
    await this.#addLocation(copy, 0, () => {
      if ((this.memory.sealed(key)?.generation ?? 0n) < generation) {
        this.memory.seal(copy);
      }
    });
    this.#copying.delete(key);
    if (!copy.isSealed) {
      this.memory.drop(copy);
      // An owner that did not answer may have taken it up all the same.
      this.#tell(Op.forgetLocations, key, { generation, member: 0, slot: copy.slot });
    }
  }

  #listHeld(message: PortMessage): void {
    const objects = this.memory.allSealed();
    for (const areCopies of [false, true]) {
      const listed = objects.filter(({ isCopy }) => isCopy === areCopies);
      for (let from = 0; from < listed.length; from += LIST_PART_KEYS) {
        const part = listed.slice(from, from + LIST_PART_KEYS);
        const payload = Buffer.concat([encodeKeys(part.map(({ key }) => key)), commitsOf(part)]);
        this.#reply(message, payload, FLAG_REPLY | FLAG_MORE, [0n, 0n, areCopies ? LISTED_COPIES : 0n, 0n]);
      }
    }
    this.#reply(message, new Uint8Array(0));
  }

  /** The worker address of a member, from what kPeers told last; that is read only when it is needed. */
  #addressOf(member: number): string {
    if (this.#peersText !== "") {
      this.#peers.clear();
      for (const line of this.#peersText.trim().split("\n")) {
        const [first = "", second = ""] = line.split(" ");
        if (first !== "self") {
          this.#peers.set(Number(first), second);
        }
      }
      this.#peersText = "";
    }
    return this.#peers.get(member) ?? "";
  }

  #reply(message: PortMessage, payload: Uint8Array, flags = FLAG_REPLY, args = NO_ARGS): void {
    this.#port?.toControl({ ...message, flags, code: StatusCode.OK, args, payload });
  }

  #end(id: bigint, message: PortMessage): void {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    pending?.onPart(message);
    pending?.resolve(message);
  }

  #failPending(why: string): void {
    for (const id of [...this.#pending.keys()]) {
      this.#end(id, failure({ id, op: 0, flags: 0, code: 0, count: 0, args: NO_ARGS, payload: EMPTY }, why));
    }
  }
}

const EMPTY = new Uint8Array(0);

function failure(message: PortMessage, why: string): PortMessage {
  return { ...message, flags: FLAG_REPLY, code: StatusCode.RPC_UNAVAILABLE, payload: Buffer.from(why, "utf8") };
}
