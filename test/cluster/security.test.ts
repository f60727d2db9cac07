/**
 * Goal: real workers with a cluster token, and with TLS too, form a cluster, move bytes between their sidecars, and are
 * closed to everybody else on every door; the secret shows up nowhere. Method: two workers over a real etcd, started by
 * hbmesh start; a third one with another token; commands with and without. The addresses are loopback, where the same
 * checks run when a secret is configured; that other addresses demand one is asked of the command line.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createSystemClock } from "../../src/base/clock.js";
import type { HeteroClient } from "../../src/client/index.js";
import { createEtcdStore } from "../../src/metadata/index.js";
import { createAuthority, type TlsFiles } from "../support/certificates.js";
import { hbmesh } from "./commands.js";
import { type Etcd, etcdMissing, freePort, startEtcd } from "./etcd.js";
import { clientOf, codesOf, DeviceObject } from "./fixture.js";
import { expectNothingNew, type Leftovers, leftoversNow } from "./leftovers.js";

const TOKEN = "the-token-of-this-test-cluster";

describe("addresses that other machines reach", () => {
  const ask = async (...flags: string[]): Promise<string> => {
    const { code, stderr } = await hbmesh("start", "-w", "--worker_address", "10.255.0.1:31501", ...flags);
    expect(code).toBe(1);
    return stderr;
  };

  it("are not served without a secret, and the sentence names what to give", async () => {
    const sentence = await ask();
    expect(sentence).toContain(
      "workerAddress must be a loopback address (127.0.0.1, [::1]) as long as nothing protects",
    );
    expect(sentence).toContain("give --cluster_token_file FILE, the same token on all hosts");
    expect(sentence).toContain("--tls_cert, --tls_key and --tls_ca");
    expect(await ask("--tenants_file", "/none")).toContain("give --cluster_token_file FILE");
    expect(await ask("--tls_cert", "/c", "--tls_key", "/k")).toContain("all three");
    const tls = ["--tls_cert", "/c", "--tls_key", "/k", "--tls_ca", "/a"];
    expect(await ask(...tls)).toContain("TLS does not cover what sidecars send each other: give --cluster_token_file");
  });
});

// Each command is a process of its own.
const PATIENCE_MS = 180_000;

describe.skipIf(etcdMissing !== undefined)(
  `a cluster with secrets ${etcdMissing ?? ""}`,
  { timeout: PATIENCE_MS },
  () => {
    let before: Leftovers;
    let folder: string;
    let etcd: Etcd;
    let authority: ReturnType<typeof createAuthority>;
    let tls: TlsFiles;
    const started: { address: string; pid: number; sidecarPid: number; log: string }[] = [];
    const clients: HeteroClient[] = [];

    beforeAll(async () => {
      before = leftoversNow();
      folder = mkdtempSync(join(tmpdir(), "hbmesh-security-"));
      writeFileSync(join(folder, "token"), `${TOKEN}\n`);
      writeFileSync(join(folder, "other-token"), "another-token-of-this-test\n");
      authority = createAuthority(folder, "cluster");
      tls = authority.issue("worker");
      etcd = await startEtcd();
    });

    afterAll(async () => {
      await Promise.all(clients.map((client) => client.close()));
      for (const { address } of started) {
        await hbmesh("stop", "--worker_address", address, "--force", "--stop_timeout_ms", "20000");
      }
      await etcd.stop();
      rmSync(folder, { recursive: true, force: true });
      expectNothingNew(
        before,
        started.map(({ address }) => address),
      );
    }, PATIENCE_MS);

    const start = async (...flags: string[]): Promise<{ code: number | null; stderr: string; address: string }> => {
      const address = `127.0.0.1:${await freePort()}`;
      const usual = ["--worker_address", address, "--etcd_address", etcd.endpoint, "--log_dir", folder];
      const memory = ["--shared_memory_size_mb", "32", "--transport", "tcp", "--devices", "4"];
      const { code, stdout, stderr } = await hbmesh("start", "-w", ...usual, ...memory, "--json", ...flags);
      if (code === 0) {
        started.push({ address, ...(JSON.parse(stdout) as { pid: number; sidecarPid: number; log: string }) });
      }
      return { code, stderr, address };
    };
    const clientAt = async (address: string): Promise<HeteroClient> => {
      const client = clientOf(address);
      await client.init();
      clients.push(client);
      return client;
    };
    /** Sets at one worker, gets at the other: control link and transport. */
    const moveBytes = async (source: string, target: string): Promise<void> => {
      const written = new DeviceObject(0, [70_000, 3], 5);
      const found = new DeviceObject(1, [70_000, 3]);
      const set = await (await clientAt(source)).mSetD2H(["k"], [written.list]);
      expect(codesOf(set)).toEqual(["OK"]);
      const get = await (await clientAt(target)).mGetH2D(["k"], [found.list], { timeoutMs: 20_000 });
      expect(codesOf(get)).toEqual(["OK"]);
      expect(found.holds(5)).toBe(true);
      written.free();
      found.free();
    };

    it("the token: two workers that have it move bytes, a third without it or with another does not get in", async () => {
      const flags = ["--cluster_name", "token", "--cluster_token_file", join(folder, "token")];
      const first = await start(...flags);
      const second = await start(...flags);
      expect([first.code, second.code], first.stderr + second.stderr).toEqual([0, 0]);
      await moveBytes(first.address, second.address);
      for (const wrong of [[], ["--cluster_token_file", join(folder, "other-token")]]) {
        const third = await start("--cluster_name", "token", ...wrong);
        expect(third.code).toBe(1);
        expect(third.stderr).toContain(
          "could not start: INVALID: cluster token has another cluster token than this worker, or one of both has none; start all workers of a cluster with the same --cluster_token_file",
        );
      }
      expect((await hbmesh("status", "--worker_address", first.address)).code).toBe(0);
    });

    it("commands without the token are refused, with it they work, and stop and status on this host find it", async () => {
      const [{ address } = { address: "" }] = started;
      const refused = await hbmesh("members", "--worker", address);
      expect(refused.code).toBe(1);
      expect(refused.stderr).toContain("NOT_AUTHORIZED: the request has no token");
      const other = await hbmesh("exist", "--worker", address, "--token_file", join(folder, "other-token"), "k");
      expect(other.stderr).toContain("NOT_AUTHORIZED: nobody has the token");
      const good = await hbmesh("exist", "--worker", address, "--token_file", join(folder, "token"), "k");
      expect(good.code, good.stderr).toBe(0);
      expect((await hbmesh("health", "--worker", address, "--token_file", join(folder, "token"))).code).toBe(0);
    });

    it("mutual TLS and the token: the same, over HTTPS", async () => {
      const files = ["--tls_cert", tls.tlsCert, "--tls_key", tls.tlsKey, "--tls_ca", tls.tlsCa];
      const flags = ["--cluster_name", "tls", "--cluster_token_file", join(folder, "token"), ...files];
      const first = await start(...flags);
      const second = await start(...flags);
      expect([first.code, second.code], first.stderr + second.stderr).toEqual([0, 0]);
      await moveBytes(first.address, second.address);
      const token = ["--token_file", join(folder, "token")];
      expect((await hbmesh("members", "--worker", first.address, ...token)).code).toBe(1);
      expect((await hbmesh("members", "--worker", first.address, ...files)).stderr).toContain("NOT_AUTHORIZED");
      const members = await hbmesh("members", "--worker", first.address, ...token, ...files, "--json");
      expect((JSON.parse(members.stdout) as { members: object[] }).members).toHaveLength(2);
      for (const { address } of started) {
        const { code, stdout } = await hbmesh("status", "--worker_address", address, "--json");
        expect(code, stdout).toBe(0);
      }
    });

    it("a certificate that others would refuse: the worker doesn't start, and says what is needed", async () => {
      const flags = ["--cluster_name", "tls", "--cluster_token_file", join(folder, "token")];
      const withFiles = ({ tlsCert, tlsKey, tlsCa }: TlsFiles): string[] => [
        ...["--tls_cert", tlsCert, "--tls_key", tlsKey, "--tls_ca", tlsCa],
      ];
      const elsewhere = await start(...flags, ...withFiles(authority.issue("b", "IP:10.9.9.9")));
      expect(elsewhere.code).toBe(1);
      expect(elsewhere.stderr).toContain(
        "is for IP Address:10.9.9.9, and this worker is at 127.0.0.1: others would refuse it; issue one whose subjectAltName has IP:127.0.0.1",
      );
      // Signed by nobody whom this worker, or the others, would believe.
      const stranger = await start(...flags, ...withFiles(createAuthority(folder, "strangers").issue("c")));
      expect(stranger.code).toBe(1);
      expect(stranger.stderr).toMatch(
        /the other workers can't reach this one at its control link 127\.0\.0\.1:\d+, so it does not join \(127\.0\.0\.1:\d+ says: /,
      );
      const mixed = { ...createAuthority(folder, "others").issue("d"), tlsCa: tls.tlsCa };
      const unsigned = await start(...flags, ...withFiles(mixed));
      expect(unsigned.code).toBe(1);
      expect(unsigned.stderr).toContain("this worker can't connect to its own control link");
    });

    it("clusters of other names share the etcd without meeting, and the secret is in no place that others see", async () => {
      const store = createEtcdStore([etcd.endpoint], createSystemClock());
      const { entries } = await store.getPrefix("");
      await store.close();
      const prefixes = new Set(entries.map(({ key }) => key.split("/").slice(0, 2).join("/")));
      expect([...prefixes].sort()).toEqual(["hbmesh/tls", "hbmesh/token"]);
      expect(entries.some(({ value }) => Buffer.from(value).includes(TOKEN))).toBe(false);
      for (const { pid, sidecarPid, log } of started) {
        expect(readFileSync(log, "utf8")).not.toContain(TOKEN);
        for (const each of [pid, sidecarPid]) {
          expect(readFileSync(`/proc/${each}/cmdline`, "utf8")).not.toContain(TOKEN);
          expect(readFileSync(`/proc/${each}/environ`, "latin1")).not.toContain(TOKEN);
        }
      }
    });
  },
);
