/** Locations that readers reported as missing: the holders themselves are asked whether that is so. */
import { StatusCode } from "../base/errors.js";
import type { Holders } from "./holders.js";
import type { Results } from "./records.js";

/** Positions of the reported records, ascending, whose first location really has that version no more. */
export async function findGone(holders: Holders, reported: Results): Promise<number[]> {
  const byMember = new Map<number, number[]>();
  for (let index = 0; index < reported.count; index++) {
    const member = reported.locations(index)[0]?.member;
    if (member !== undefined) {
      const indexes = byMember.get(member) ?? [];
      byMember.set(member, indexes);
      indexes.push(index);
    }
  }
  const gone = await Promise.all([...byMember].map(([member, at]) => findGoneAt(holders, member, reported, at)));
  return gone.flat().sort((a, b) => a - b);
}

/** `indexes`: of locations that are all of this member. */
async function findGoneAt(
  holders: Holders,
  member: number,
  reported: Results,
  indexes: readonly number[],
): Promise<number[]> {
  const objects = indexes.map((index) => ({
    slot: reported.locations(index)[0]?.slot ?? 0,
    generation: reported.generation(index),
  }));
  try {
    const described = await holders.describe(member, objects);
    return indexes.filter((_, at) => {
      const code = described[at]?.code;
      return code === StatusCode.NOT_FOUND || code === StatusCode.TRY_AGAIN;
    });
  } catch {
    // Not reached: it may well have them.
    return [];
  }
}
