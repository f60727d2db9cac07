export { fromConnectError, toConnectError } from "./connect-errors.js";
export { type LinkCallContext, type LinkRoutes, createLinkRoutes, methodName } from "./link-routes.js";
export { type LinkServer, type LinkServerOptions, createLinkServer } from "./link-server.js";
export { type LinkTransport, type LinkTransportOptions, createLinkTransport } from "./link-transport.js";
