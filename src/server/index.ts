export { type ApiServer, type ApiServerOptions, startApiServer } from "./api-server.js";
export { type ProbeServer, startProbeServer } from "./probes.js";
