/** The memory of a fake sidecar: what stays when it dies. */

export type Family = 0 | 1 | 2;

export interface FakeObject {
  key: string;
  family: Family;
  slot: number;
  generation: bigint;
  blobSizes: bigint[];
  content: string;
  state: "writing" | "written" | "sealed";
}

/** Object table of one worker: lives as long as its "memory", over restarts of its sidecar. */
export class FakeMemory {
  readonly objects = new Map<number, FakeObject>();
  nextSlot = 1;

  sealedByKey(key: string): FakeObject | undefined {
    return [...this.objects.values()].find((object) => object.key === key && object.state === "sealed");
  }
}
