/** Goal: a worker's log says who may ask it and what guards it. Method: each way to configure it, and its sentence. */
import { describe, expect, it } from "vitest";
import { resolveWorkerConfig, type WorkerSettings } from "../../../src/base/config.js";
import { StatusCode } from "../../../src/base/errors.js";
import { describeAccess } from "../../../src/cli/worker-access.js";

const configOf = (settings: Partial<WorkerSettings>) =>
  resolveWorkerConfig({ workerAddress: "127.0.0.1:31501", ...settings });

const tls = { tlsCert: "c", tlsKey: "k", tlsCa: "a" };

describe("describeAccess", () => {
  it.each<[string, Partial<WorkerSettings>, string, string]>([
    [
      "nothing",
      {},
      "users 1000, 0, without a token: the user id is the guard",
      "every user of this host: nothing guards it",
    ],
    [
      "named users and a group",
      { clientUids: [1001, 1000], clientGid: 7 },
      "users 1000, 0, 1001 and members of group 7, without a token: the user id is the guard",
      "every user of this host: nothing guards it",
    ],
    [
      "the cluster's token",
      { clusterTokenFile: "f" },
      "users 1000, 0, without a token: the user id is the guard; any other user who shows the cluster's token",
      "who shows the cluster's token",
    ],
    [
      "the cluster's token, required",
      { clusterTokenFile: "f", localToken: "required", ...tls },
      "any user of this host who shows the cluster's token",
      "who shows a certificate of the cluster's and the cluster's token",
    ],
    [
      "tenants",
      { tenantsFile: "t" },
      "any user of this host who shows a tenant's token",
      "who shows a tenant's token (for objects)",
    ],
    [
      "insecure",
      { workerAddress: "10.0.0.1:31501", insecure: true },
      "users 1000, 0, without a token: the user id is the guard",
      "everyone who reaches it: nothing guards it",
    ],
  ])("%s", (_, settings, localClients, api) => {
    expect(describeAccess(configOf(settings), 1000)).toEqual({ localClients, api });
  });
});

describe("who may be a client, as settings", () => {
  it.each<[Partial<WorkerSettings>, string]>([
    [{ clientUids: [-1] }, "clientUids must be ids of users, whole numbers from 0 to 4294967294"],
    [{ clientUids: [0, 2 ** 32 - 1] }, "clientUids must be ids of users"],
    [{ clientUids: [1.5] }, "clientUids must be ids of users"],
    [{ clientGid: 2 ** 32 - 1 }, "clientGid must be the id of a group, from 0 to 4294967294"],
    [{ localToken: "required" }, "localToken takes tokens to ask for: give --cluster_token_file or --tenants_file"],
    [{ localToken: "always" as "required" }, "localToken must be one of optional, required"],
    [{ probeAddress: "localhost:1" }, 'probeAddress "localhost:1" has a name'],
  ])("%j is refused with the remedy", (settings, message) => {
    expect(() => configOf(settings)).toThrow(
      expect.objectContaining({ code: StatusCode.INVALID, message: expect.stringContaining(message) }),
    );
  });

  it("ids at their limits are taken", () => {
    const { clientUids, clientGid } = configOf({ clientUids: [0, 2 ** 32 - 2], clientGid: 2 ** 32 - 2 });
    expect([clientUids, clientGid]).toEqual([[0, 4_294_967_294], 4_294_967_294]);
  });
});
