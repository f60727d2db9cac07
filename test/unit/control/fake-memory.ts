/** The memory of a fake sidecar: what stays when it dies. */
import { StatusCode } from "../../../src/base/errors.js";

export type Family = 0 | 1 | 2;

export interface FakeObject {
  key: string;
  family: Family;
  slot: number;
  generation: bigint;
  blobSizes: bigint[];
  content: string;
  /** Confirmed: its owner knows it, its bytes are on their way. */
  state: "writing" | "confirmed" | "written" | "sealed";
  /** Of another worker's object. */
  isCopy?: boolean;
  /** Versions in this slot that were dropped before its bytes were there. */
  dropped?: bigint[];
}

/** Object table of one worker: lives as long as its "memory", over restarts of its sidecar. */
export class FakeMemory {
  readonly objects = new Map<number, FakeObject>();
  nextSlot = 1;

  sealedByKey(key: string): FakeObject | undefined {
    return [...this.objects.values()].find((object) => object.key === key && object.state === "sealed");
  }

  /** Makes it visible, unless it has gone meanwhile. */
  seal(object: FakeObject): void {
    if (this.objects.get(object.slot) !== object) {
      return;
    }
    const before = this.sealedByKey(object.key);
    if (before !== undefined) {
      this.objects.delete(before.slot);
    }
    object.state = "sealed";
  }

  drop(slot: number, generation: bigint): StatusCode {
    const object = this.objects.get(slot);
    if (object !== undefined && (object.state === "writing" || object.state === "confirmed")) {
      // Its bytes are on their way, and its generation may not be known yet.
      object.dropped = [...(object.dropped ?? []), generation];
    } else if (object?.generation === generation) {
      this.objects.delete(slot);
    }
    return StatusCode.OK;
  }
}
