/**
 * Calls without side effects by GET, as a browser and `curl URL` send it. Connect's own GET has the message in the
 * address (`?connect=v1&encoding=json&message=%7B%7D`); where none is given the message is empty. HEAD is a GET whose
 * body isn't sent.
 */
import type { IncomingMessage } from "node:http";
import { ClusterService } from "../gen/hbmesh/v1/cluster_pb.js";
import { pathOf } from "./probes.js";

/** MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS. */
const NO_SIDE_EFFECTS = 1;

const PATHS: ReadonlySet<string> = new Set(
  ClusterService.methods
    .filter(({ idempotency }) => idempotency === NO_SIDE_EFFECTS)
    .map(({ name }) => `/${ClusterService.typeName}/${name}`),
);

/** Completes such a request in place; leaves all others as they are. */
export function completePlainGet(request: IncomingMessage): void {
  if ((request.method !== "GET" && request.method !== "HEAD") || !PATHS.has(pathOf(request))) {
    return;
  }
  // Node has decided already, by the method that came, whether the answer has a body.
  request.method = "GET";
  const given = new URLSearchParams(request.url?.split("?").slice(1).join("?"));
  if (!given.has("encoding") && !given.has("message")) {
    request.url = `${pathOf(request)}?connect=v1&encoding=json&message=%7B%7D`;
  }
}
