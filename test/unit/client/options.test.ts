/**
 * Goal: a host is taken in any way of writing it, and no option is left out in silence: one that there is none of, or a
 * port as text, is refused by name, in every call. Method: a client over a fake native client; each call once with its
 * options misspelled.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { Blob, DeviceBlobList, HeteroClient } from "../../../src/client/index.js";
import { FakeNative, fakeAddon } from "./fake-native.js";

const address = { host: "127.0.0.1", port: 31501 };

describe("where a client connects to", () => {
  it.each([
    ["::1", "[::1]:31501"],
    ["[::1]", "[::1]:31501"],
    ["0:0:0:0:0:0:0:1", "[::1]:31501"],
    ["Node7.example", "node7.example:31501"],
    ["127.0.0.1", "127.0.0.1:31501"],
  ])("%s", async (host, workerAddress) => {
    const addon = fakeAddon(new FakeNative());
    const client = new HeteroClient({ host, port: 31501 }, { addon });
    await client.init();
    expect(addon.connects[0]).toMatchObject({ workerAddress });
    await client.close();
  });

  it.each([
    [
      { host: "[::1]:31501", port: 31501 },
      'host "[::1]:31501" is neither an IP address nor a host name; a port goes apart',
    ],
    [{ host: "fe80::1%eth0", port: 31501 }, 'host "fe80::1%eth0" has a zone (%)'],
    [{ host: "127.0.0.1", port: "23001" }, 'port "23001" is a string: give the number 23001'],
    [{ host: "127.0.0.1", port: "http" }, 'port "http" must be a number from 1 to 65535, usually 31501'],
    [{ host: "127.0.0.1", port: 1.5 }, "port 1.5 must be a number from 1 to 65535"],
    [{ host: "127.0.0.1" }, "port undefined must be a number from 1 to 65535"],
    [{ ...address, tokn: "secret" }, "there is no option tokn (did you mean token?): options are host, port,"],
    [{ ...address, colour: 1 }, "there is no option colour: options are host, port,"],
    [null, "options must be an object, as in { host: ... }, not null"],
    ["127.0.0.1:31501", "options must be an object, as in { host: ... }, not string"],
  ])("%j is refused", (options, sentence) => {
    const make = (): HeteroClient => new HeteroClient(options as never);
    expect(make).toThrow(
      expect.objectContaining({ code: StatusCode.INVALID, message: expect.stringContaining(sentence) }),
    );
    expect(make).not.toThrow("secret");
  });
});

describe("an option that a call does not have", () => {
  let native: FakeNative;
  let client: HeteroClient;
  beforeEach(async () => {
    native = new FakeNative();
    client = new HeteroClient(address, { addon: fakeAddon(native) });
    await client.init();
  });
  afterEach(() => client.close());

  const lists = [new DeviceBlobList(0, [new Blob(4096n, 64n)])];
  const wrong = (name: string): never => ({ [name]: 1 }) as never;
  const calls: [string, string, string, (options: never) => Promise<unknown>][] = [
    ["mSetD2H", "existance", "existence", (options) => client.mSetD2H(["k"], lists, options)],
    ["mGetH2D", "timeoutMS", "timeoutMs", (options) => client.mGetH2D(["k"], lists, options)],
    ["delete", "sgnal", "signal", (options) => client.delete(["k"], options)],
    ["exist", "sgnal", "signal", (options) => client.exist(["k"], options)],
    ["getMetaInfo", "sgnal", "signal", (options) => client.getMetaInfo(["k"], options)],
    ["explain", "sgnal", "signal", (options) => client.explain("k", options)],
    ["devPublish", "sgnal", "signal", (options) => client.devPublish(["k"], lists, options)],
    ["devSubscribe", "timeout", "timeoutMs", (options) => client.devSubscribe(["k"], lists, options)],
    ["devMSet", "pins", "pin", (options) => client.devMSet(["k"], lists, options)],
    ["devMGet", "sharedReplica", "shareReplica", (options) => client.devMGet(["k"], lists, options)],
    ["devDelete", "sgnal", "signal", (options) => client.devDelete(["k"], options)],
    ["devLocalDelete", "sgnal", "signal", (options) => client.devLocalDelete(["k"], options)],
    ["reserveLayers", "ttl_seconds", "ttlSeconds", (options) => client.reserveLayers(lists, options)],
    ["push", "sgnal", "signal", (options) => client.push("t", 0, lists[0] as DeviceBlobList, options)],
    ["healthCheck", "sgnal", "signal", (options) => client.healthCheck(options)],
  ];

  it.each(calls)("%s: %s", async (_, name, meant, call) => {
    await expect(call(wrong(name))).rejects.toMatchObject({
      code: StatusCode.INVALID,
      message: expect.stringContaining(`there is no option ${name} (did you mean ${meant}?): options are `),
    });
    expect(native.requests).toEqual([]);
  });
});
