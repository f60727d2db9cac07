export {
  loadAddon,
  type NativeAddon,
  type NativeClient,
  type NativeLayout,
  type NativeReply,
  nativePath,
} from "./addon.js";
export { fromNativeError } from "./native-errors.js";
export { type ConnectSidecarOptions, connectSidecar, type NativeSidecarPort } from "./native-port.js";
export type { PortMessage, SidecarInfo, SidecarPort } from "./port.js";
export {
  type SidecarExit,
  type SidecarFlags,
  type SidecarProcess,
  type SidecarProcessOptions,
  sidecarArguments,
  startSidecarProcess,
} from "./sidecar-process.js";
export { type StartedSidecar, startSidecar } from "./start-sidecar.js";
export { takeOverSidecar } from "./take-over.js";
