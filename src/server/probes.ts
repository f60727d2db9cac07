/**
 * What orchestrators ask: GET or HEAD of /healthz (does this process go on?) and of /readyz (would this worker serve a
 * get?). 200 or 503, with the reason as a line of text, or as JSON for `accept: application/json`.
 *
 * Nobody is asked for a token, since kubelets and load balancers have none. Where the API asks for one, or for a
 * certificate, the reason is told without the names of other workers.
 *
 * An API with TLS asks for a certificate before it hears the first word, which kubelets can't show. Probes can have an
 * address of their own then, which serves nothing else.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { formatAddress, parseAddress } from "../base/address.js";
import { createSystemClock } from "../base/clock.js";
import type { HbmeshError } from "../base/errors.js";
import type { ControlProcess } from "../control/index.js";
import { closerOf } from "../rpc/index.js";
import { listen } from "./listen.js";

export type Probed = Pick<ControlProcess, "notReadyReason" | "failed" | "tenants" | "credentials">;

/** Answers a probe. False: the request is none. */
export type AnswerProbe = (request: IncomingMessage, response: ServerResponse) => boolean;

interface Finding {
  good: boolean;
  reason: string;
}

/** Without a control process there is nothing that could be missing. */
export function createProbes(control: Probed | undefined): AnswerProbe {
  let failure: HbmeshError | undefined;
  void control?.failed.then((reason) => {
    failure = reason;
  });
  const { token, tls } = control?.credentials ?? {};
  const isGuarded = control?.tenants !== undefined || token !== undefined || tls !== undefined;
  const shown = (reason: string): string => (isGuarded ? reason.replace(/: .*$/s, "") : reason);
  const finding = (reason: string): Finding => ({ good: reason === "", reason: shown(reason) });
  const probes: Readonly<Record<string, () => Finding>> = {
    "/healthz": () => finding(failure?.message ?? ""),
    "/readyz": () => finding(failure?.message ?? control?.notReadyReason ?? ""),
  };
  return (request, response) => {
    const probe = probes[pathOf(request)];
    if (probe === undefined) {
      return false;
    }
    answer(request, response, probe);
    return true;
  };
}

export function pathOf({ url = "" }: IncomingMessage): string {
  return url.split("?", 1)[0] ?? "";
}

function answer(request: IncomingMessage, response: ServerResponse, probe: () => Finding): void {
  request.resume(); // a body, of whoever sends one
  if (request.method !== "GET" && request.method !== "HEAD") {
    response.writeHead(405, { allow: "GET, HEAD", "content-type": "text/plain; charset=utf-8" });
    response.end("probes are asked with GET or HEAD\n");
    return;
  }
  const { good, reason } = probe();
  const wantsJson = /\bapplication\/json\b/.test(request.headers.accept ?? "");
  const body = wantsJson ? JSON.stringify({ ok: good, reason }) : good ? "ok" : reason;
  response.writeHead(good ? 200 : 503, {
    "content-type": wantsJson ? "application/json" : "text/plain; charset=utf-8",
    "cache-control": "no-store",
  });
  response.end(`${body}\n`); // of a HEAD Node sends the head alone
}

export interface ProbeServer {
  /** With the real port. */
  readonly address: string;
  close(): Promise<void>;
}

/** More than any orchestrator has open. */
const CONNECTIONS_MAX = 64;

/** Probes alone, over plain HTTP. Rejects with NOT_READY naming the address when it can't be listened at. */
export async function startProbeServer(address: string, control: Probed): Promise<ProbeServer> {
  const probe = createProbes(control);
  const limits = { keepAliveTimeout: 60_000, requestTimeout: 10_000, headersTimeout: 10_000, maxHeaderSize: 8_192 };
  const server = createServer(limits, (request, response) => {
    if (!probe(request, response)) {
      request.resume();
      response.writeHead(404, { "content-type": "text/plain; charset=utf-8" });
      response.end("there is nothing here but /healthz and /readyz\n");
    }
  });
  server.maxConnections = CONNECTIONS_MAX;
  const close = closerOf(server);
  await listen(server, address);
  const { port } = server.address() as AddressInfo;
  return {
    address: formatAddress({ host: parseAddress(address, "the probes' address").host, port }),
    async close() {
      await close({ clock: createSystemClock(), graceMs: 0 });
    },
  };
}
