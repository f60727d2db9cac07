export { closerOf } from "./close-server.js";
export { fromConnectError, toConnectError } from "./connect-errors.js";
export { createLinkRoutes, type LinkCallContext, type LinkRoutes, methodName } from "./link-routes.js";
export { createLinkServer, type LinkServer, type LinkServerOptions } from "./link-server.js";
export { badTlsFiles } from "./link-socket.js";
export { createLinkTransport, type LinkTransport, type LinkTransportOptions } from "./link-transport.js";
