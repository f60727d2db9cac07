/** Helpers of the directory tests: what callers tell, what they are answered, and calls for one key. */
import { StatusCode } from "../../../src/base/errors.js";
import {
  type CommitRecord,
  createDecisions,
  type Directory,
  decodeResults,
  type ExistenceMode,
  encodeCommits,
  encodeKeys,
  encodeResults,
  type FAMILY_ANY,
  type Family,
  type ResultRecord,
} from "../../../src/decision/index.js";

const { INVALID, OK } = StatusCode;
export const SKIP = 0;
export const FAIL = 1;
export const REPLACE = 2;

export function told(generation: number, member = 1, slot = 0, bytes = 100): CommitRecord {
  return { generation: BigInt(generation), bytes: BigInt(bytes), slot, member };
}

export function result(
  code: StatusCode,
  existed: boolean,
  from?: CommitRecord,
  ...further: CommitRecord[]
): ResultRecord {
  const locations = from === undefined ? [] : [from, ...further].map(({ member, slot }) => ({ member, slot }));
  const { generation, bytes } = from ?? { generation: 0n, bytes: 0n };
  return { code, existed, otherFamily: false, generation, bytes, family: 0, locations };
}

/** The answer to one who takes the key for another family. */
export function otherFamily(
  family: Family,
  { generation, bytes }: { generation: bigint; bytes: bigint },
): ResultRecord {
  return { ...result(INVALID, false), otherFamily: true, generation, bytes, family };
}

/** A directory as calls for one key each. */
export function createSingle(): {
  directory: Directory;
  commit(key: string, record: CommitRecord, existence: ExistenceMode, family?: Family): ResultRecord;
  announce(key: string, record: CommitRecord, family?: Family): ResultRecord;
  lookup(key: string, family?: Family | typeof FAMILY_ANY, rotate?: number): ResultRecord;
  remove(key: string, family?: Family): ResultRecord;
  reserve(key: string, existence: ExistenceMode, family?: Family): ResultRecord;
  forget(key: string, record: CommitRecord): ResultRecord;
} {
  const { directory } = createDecisions();
  const one = (records: Uint8Array): ResultRecord => decodeResults(records)[0] as ResultRecord;
  return {
    directory,
    commit: (key, record, existence, family) =>
      one(directory.commit(encodeKeys([key]), encodeCommits([record]), existence, family)),
    announce: (key, record, family) => one(directory.announce(encodeKeys([key]), encodeCommits([record]), family)),
    lookup: (key, family, rotate) => one(directory.lookup(encodeKeys([key]), family, rotate)),
    remove: (key, family) => one(directory.remove(encodeKeys([key]), family)),
    reserve: (key, existence, family) => one(directory.reserve(encodeKeys([key]), existence, family)),
    forget: (key, record) =>
      one(directory.forgetLocations(encodeKeys([key]), encodeResults([result(OK, false, record)]))),
  };
}
