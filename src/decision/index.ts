/**
 * The decisions of the control plane: their interface, the Wasm that answers it, and the records that cross the border.
 */
export type {
  Decisions,
  Directory,
  ExistenceMode,
  Family,
  KeyBatch,
  KeyFault,
  KeyOrigin,
  KeyRule,
  PlanRequest,
  RingMember,
} from "./decisions.js";
export { describeKeyFault, faultyKey } from "./faults.js";
export * from "./layout.js";
export { createDecisions, type DecisionOptions } from "./wasm-decisions.js";
