/**
 * Goal: a message about a connection names its cause, whatever a library wraps around it; gRPC goes through no proxy;
 * what was meant by a wrong name is guessed well. Method: tables of errors, environments and names.
 */
import { describe, expect, it } from "vitest";
import { causeOf } from "../../../src/base/connection-cause.js";
import { keepGrpcDirect } from "../../../src/base/direct-agent.js";
import { describeOwnHosts, listenFault } from "../../../src/base/listen-fault.js";
import { nearestName } from "../../../src/base/nearest-name.js";
import { fromEtcdError } from "../../../src/metadata/etcd-errors.js";

const refused = (host: string): Error =>
  Object.assign(new Error(`connect ECONNREFUSED ${host}:9`), { code: "ECONNREFUSED" });

describe("the cause of a connection's end", () => {
  it.each<[string, unknown, string]>([
    ["its own text", refused("::1"), "connect ECONNREFUSED ::1:9"],
    ["what an empty text wraps", new Error("", { cause: refused("::1") }), "connect ECONNREFUSED ::1:9"],
    [
      "each address of a name",
      new AggregateError([refused("::1"), refused("127.0.0.1")]),
      "connect ECONNREFUSED ::1:9, connect ECONNREFUSED 127.0.0.1:9",
    ],
    ["a code, where that is all", Object.assign(new Error(""), { code: "ECONNRESET" }), "ECONNRESET"],
    ["a pipe without words", new Error("write EPIPE"), "the other side closed the connection (EPIPE)"],
    ["no text at all", undefined, "the connection failed without a reason"],
    ["no reason of a library's", new Error("Last error: undefined. "), "the connection failed without a reason"],
  ])("is %s", (_, reason, text) => {
    expect(causeOf(reason)).toBe(text);
  });
});

describe("what etcd's client says", () => {
  const say = (text: string): string =>
    fromEtcdError(new Error(text), { what: "reading", endpoints: ["10.0.0.7:2379", "[::1]:2379"], timeoutMs: 500 })
      .message;

  it.each([
    [
      "14 UNAVAILABLE: No connection established. Last error: Error: connect ECONNREFUSED 10.0.0.7:2379. Resolution note: ",
      "connect ECONNREFUSED 10.0.0.7:2379",
    ],
    [
      "14 UNAVAILABLE: No connection established. Last error: Protocol error (2026-12-01T03:58:58.734Z). Resolution note: ",
      "what answers there is no etcd (protocol error)",
    ],
    [
      "14 UNAVAILABLE: No connection established. Last error: Failed to connect (2026-12-01T03:58:58.756Z). Resolution note: ",
      "the connection was closed before etcd answered",
    ],
    [
      "14 UNAVAILABLE: No connection established. Last error: undefined. Resolution note: ",
      "the connection failed without a reason",
    ],
    ["14 UNAVAILABLE: No connection established. Last error: null. Resolution note: ", "the connection failed without"],
    ["4 DEADLINE_EXCEEDED: Deadline exceeded after 0.000s,waiting for name resolution", "no answer within 500 ms"],
    [
      "14 UNAVAILABLE: Name resolution failed for target dns:nowhere.invalid:2379",
      "the name nowhere.invalid leads to no address",
    ],
    ["14 UNAVAILABLE: Connection dropped", "(Connection dropped)"],
  ])("%s", (text, why) => {
    expect(say(text)).toContain(why);
    expect(say(text)).toContain("etcd at 10.0.0.7:2379,[::1]:2379 failed (");
    expect(say(text)).not.toMatch(/undefined|null|UNAVAILABLE/);
  });
});

describe("gRPC and proxies", () => {
  it.each<[Record<string, string>, string]>([
    [{}, "10.0.0.7,::1"],
    [{ no_proxy: "a.example" }, "a.example,10.0.0.7,::1"],
    [{ no_proxy: "a.example", no_grpc_proxy: "b.example" }, "b.example,10.0.0.7,::1"],
    [{ no_grpc_proxy: "::1,10.0.0.7" }, "::1,10.0.0.7"],
  ])("%j", (env, list) => {
    keepGrpcDirect(["10.0.0.7", "::1"], env);
    expect(env.no_grpc_proxy).toBe(list);
  });
});

describe("an address that can't be listened at", () => {
  it.each([
    ["EADDRINUSE", "another process has this port; stop it, or choose another one"],
    ["EADDRNOTAVAIL", `this host has no such IP address${describeOwnHosts()}`],
    ["EACCES", "this user may not listen at that port; choose one from 1024 on"],
    ["EMFILE", "too many open files"],
  ])("%s", (code, sentence) => {
    expect(listenFault(Object.assign(new Error("too many open files"), { code }))).toBe(sentence);
  });
});

describe("the name that was meant", () => {
  const names = ["host", "port", "token", "connectTimeoutMs", "requestTimeoutMs"];
  it.each([
    ["tokn", "token"],
    ["Port", "port"],
    ["connectTimeout", "connectTimeoutMs"],
    ["colour", undefined],
  ])("%s", (wrong, meant) => {
    expect(nearestName(wrong, names)).toBe(meant);
  });
});
