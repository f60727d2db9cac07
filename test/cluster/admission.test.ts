/**
 * Goal: processes of other users of a host are let in when they are named, or show a token, and then set and get; else
 * each of them is told so, with the cause and the remedy, and the log says it too. Method: real workers and clients,
 * each a process of a user of its own, which only root can start.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { run } from "./commands.js";
import { startWorkerProcess, type WorkerProcess, type WorkerProcessOptions } from "./worker-process.js";

const CLIENT = fileURLToPath(new URL("user-client.mjs", import.meta.url));
const TOKEN = "the-token-of-this-cluster";
const OWNER = 65_531;
const OTHER = 65_532;

interface Told {
  codes: Record<string, number>;
  messages: string[];
  isSame: boolean;
}

/** May another user read what these tests run? */
async function isReadable(): Promise<boolean> {
  if (process.getuid?.() !== 0) {
    return false;
  }
  const { code } = await run("setpriv", [...asUser(OTHER), process.execPath, "--check", CLIENT]).catch(() => ({
    code: 1,
  }));
  return code === 0;
}

function asUser(uid: number): string[] {
  return [`--reuid=${uid}`, `--regid=${uid}`, "--clear-groups"];
}

const canRun = await isReadable();

describe.skipIf(!canRun)(
  canRun ? "users of one host" : "users of one host (skipped: takes root, and a checkout that other users can read)",
  () => {
    let folder: string;
    let tokenFlags: string[];
    let worker: WorkerProcess | undefined;

    beforeAll(() => {
      folder = mkdtempSync(join(tmpdir(), "hbmesh-admission-"));
      writeFileSync(join(folder, "token"), `${TOKEN}\n`);
      tokenFlags = ["--cluster_token_file", join(folder, "token")];
    });
    afterAll(() => rmSync(folder, { recursive: true }));
    afterEach(async () => {
      await worker?.stop();
      worker = undefined;
    });

    const start = async (options: WorkerProcessOptions = {}): Promise<WorkerProcess> => {
      worker = await startWorkerProcess(options);
      return worker;
    };
    const connect = async (
      uid: number,
      options: { token?: string; tries?: number; trusts?: string } = {},
    ): Promise<Told> => {
      const { trusts, ...asked } = options;
      const request = JSON.stringify({ port: worker?.port, ...asked });
      const variables = trusts === undefined ? [] : ["env", `HBMESH_WORKER_UIDS=${trusts}`];
      const line = [...asUser(uid), ...variables, process.execPath, CLIENT, request];
      const { code, stdout, stderr } = await run("setpriv", line);
      expect(code, stderr).toBe(0);
      return JSON.parse(stdout) as Told;
    };

    it("each of 40 refused ones reads why, and what to do; the log says it, and is not filled", async () => {
      const { address, log } = await start();
      expect(await connect(OTHER, { tries: 40 })).toEqual({
        codes: { NOT_AUTHORIZED: 40 },
        messages: [
          `worker ${address} serves user id 0 and root on this host, you are ${OTHER} (group ${OTHER}): run both as the same user, or start the worker with --client_uids ${OTHER} or --client_gid`,
        ],
        isSame: false,
      });
      const lines = log()
        .split("\n")
        .filter((line) => line.includes("refused process"));
      expect(lines).toHaveLength(10);
      expect(lines[0]).toContain(`of user ${OTHER}, group ${OTHER}: NOT_AUTHORIZED: worker ${address} serves`);
      expect(log()).toContain('"localClients":"users 0, without a token: the user id is the guard"');
    });

    it("--client_uids and --client_gid let named users in, who set and get", async () => {
      await start({ args: ["--client_uids", `1,${OTHER}`, "--client_gid", "65530"] });
      expect(await connect(OTHER)).toEqual({ codes: { OK: 1 }, messages: [], isSame: true });
      expect((await connect(65_530)).codes, "a member of the group").toEqual({ OK: 1 });
      expect((await connect(OWNER)).codes).toEqual({ NOT_AUTHORIZED: 1 });
    });

    it("a client trusts a worker of another user only when it is told to", async () => {
      const { address } = await start({ args: ["--client_uids", String(OTHER)], uid: OWNER, gid: OWNER });
      const untold = await connect(OTHER);
      expect(untold.codes).toEqual({ NOT_AUTHORIZED: 1 });
      expect(untold.messages).toEqual([
        `worker ${address} is served by user id ${OWNER}, this process runs as ${OTHER}: run both as the same user or the worker as root, or, if you trust that user with this process's memory, set HBMESH_WORKER_UIDS=${OWNER} here`,
      ]);
      expect((await connect(OTHER, { trusts: "1,2" })).codes).toEqual({ NOT_AUTHORIZED: 1 });
      expect(await connect(OTHER, { trusts: `1,${OWNER}` })).toEqual({ codes: { OK: 1 }, messages: [], isSame: true });
      const wrong = await connect(OTHER, { trusts: "alice" });
      expect(wrong.messages).toEqual([
        'HBMESH_WORKER_UIDS is "alice": give user ids with commas between them, as in 1000,1001',
      ]);
      expect(wrong.codes).toEqual({ INVALID: 1 });
    });

    it("with a cluster token the user is enough, a right token lets others in, and a wrong one nobody", async () => {
      const { address } = await start({ args: tokenFlags });
      expect((await connect(0)).codes).toEqual({ OK: 1 });
      expect((await connect(0, { token: TOKEN })).codes).toEqual({ OK: 1 });
      for (const uid of [0, OTHER]) {
        const { codes, messages } = await connect(uid, { token: "wrong-secret", tries: 5 });
        expect([codes, messages]).toEqual([
          { NOT_AUTHORIZED: 5 },
          [`the token is nobody's at worker ${address}: give the cluster's token (--cluster_token_file)`],
        ]);
      }
      expect(await connect(OTHER, { token: TOKEN })).toEqual({ codes: { OK: 1 }, messages: [], isSame: true });
      expect((await connect(OTHER)).messages[0]).toContain("give its token, run both as the same user");
    });

    it("--local_token required: no user is enough, a right token is", async () => {
      const { address, log } = await start({ args: [...tokenFlags, "--local_token", "required"] });
      const { codes, messages } = await connect(0);
      expect([codes, messages]).toEqual([
        { NOT_AUTHORIZED: 1 },
        [`you gave no token at worker ${address}: give the cluster's token (--cluster_token_file)`],
      ]);
      expect((await connect(0, { token: "wrong-secret" })).codes).toEqual({ NOT_AUTHORIZED: 1 });
      expect((await connect(0, { token: TOKEN })).codes).toEqual({ OK: 1 });
      expect((await connect(OTHER, { token: TOKEN })).codes).toEqual({ OK: 1 });
      expect(log()).toContain("any user of this host who shows the cluster's token");
      expect(log()).not.toContain(TOKEN);
      expect(log()).not.toContain("wrong-secret");
    });
  },
);
