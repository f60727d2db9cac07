export type * from "./contract.js";
export { startControlProcess } from "./control-process.js";
export { type DrainStatus, NO_DRAIN } from "./drain.js";
export type { ControlConnection, ControlListener, ControlNetwork } from "./network.js";
