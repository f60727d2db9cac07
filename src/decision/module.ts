/**
 * The Wasm module as it is: its exports, where it lies, and how it is made to run. Compiled once a process,
 * instantiated for each `Decisions`. Pointers and u32 come out of it as signed numbers: use `>>> 0`.
 */
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { HbmeshError, StatusCode } from "../base/errors.js";

/** Exports of asm/index.ts; the meaning of each is stated there. */
export interface DecisionExports {
  readonly memory: WebAssembly.Memory;
  readonly tokensPerWeight: WebAssembly.Global;
  begin(bytes: number): number;
  limitMemory(bytes: bigint): void;
  setHashSeed(seed: bigint): void;
  hash(pointer: number, bytes: number): bigint;
  isByteAllowed(rule: number, byte: number): number;
  bytesMaxOf(rule: number): number;
  validateBatch(pointer: number, length: number, rule: number, keysMax: number, plain: number): number;
  validateFaultIndex(): number;
  validateFaultDetail(): number;
  setRing(pointer: number, length: number, count: number): number;
  keepRing(): void;
  ownersOfBatch(pointer: number, length: number): number;
  keptOwnersOfBatch(pointer: number, length: number): number;
  groupBatch(pointer: number, length: number): number;
  ringResult(): number;
  ringResultBytes(): number;
  ringGroupCount(): number;
  ringEntries(): number;
  ringTokenCount(): number;
  makePlan(pointer: number, length: number, keys: number, blobs: number, sliceBytesMax: bigint, lanes: number): number;
  planRecords(): number;
  planRecordCount(): number;
  planFault(): number;
  placeMoves(pointer: number, length: number, objects: number, targets: number): number;
  movesPlaces(): number;
  reserve(keys: number, keysLength: number, existence: number, family: number): number;
  commit(
    keys: number,
    keysLength: number,
    records: number,
    recordsLength: number,
    existence: number,
    family: number,
  ): number;
  lookup(keys: number, keysLength: number, family: number, rotation: number): number;
  remove(keys: number, keysLength: number, family: number): number;
  announce(keys: number, keysLength: number, records: number, recordsLength: number, family: number): number;
  forgetLocations(keys: number, keysLength: number, records: number, recordsLength: number): number;
  entomb(keys: number, keysLength: number, records: number, recordsLength: number): number;
  forgetMember(member: number): number;
  forgetForeign(self: number): number;
  raiseGenerationTo(floor: bigint): void;
  highestGeneration(): bigint;
  setGenerationMember(member: number): void;
  directoryResults(): number;
  directoryKeys(): number;
  directoryObjectBytes(): bigint;
  directoryMemoryBytes(): bigint;
  directoryTombstones(): number;
}

let compiled: WebAssembly.Module | undefined;

/**
 * Path of decisions.wasm, for this file in dist/decision/ as well as in src/decision/. Raises NOT_READY if it is
 * absent.
 */
export function decisionModulePath(): string {
  for (const place of ["../decisions.wasm", "../../dist/decisions.wasm"]) {
    const path = fileURLToPath(new URL(place, import.meta.url));
    if (existsSync(path)) {
      return path;
    }
  }
  throw new HbmeshError(
    StatusCode.NOT_READY,
    "dist/decisions.wasm is missing. Run `npm run build`, which compiles it from asm/.",
  );
}

export function loadDecisionModule(): WebAssembly.Module {
  compiled ??= new WebAssembly.Module(readFileSync(decisionModulePath()));
  return compiled;
}

/** A fresh instance with a memory of its own. Synchronous: the module is small. */
export function instantiateDecisions(): DecisionExports {
  return new WebAssembly.Instance(loadDecisionModule(), {}).exports as unknown as DecisionExports;
}
