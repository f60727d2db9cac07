/**
 * Goal: a worker reaches an etcd that shows a certificate, asks for one, and for a user with a password; what etcd
 * refuses is said with the remedy; a login that etcd no longer knows is renewed, with the password that the file has by
 * then. Method: a real etcd with TLS, client certificates and authentication; the store's conformance suite as a user
 * of it, then each refusal by itself, and a worker.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Etcd3, Range } from "etcd3";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createSystemClock } from "../../src/base/clock.js";
import { resolveWorkerConfig, type WorkerConfig } from "../../src/base/config.js";
import { pause } from "../../src/base/deadline.js";
import { StatusCode } from "../../src/base/errors.js";
import { type EtcdFiles, loadEtcdAccess } from "../../src/base/etcd-access.js";
import { createEtcdStore } from "../../src/metadata/index.js";
import { createAuthority } from "../support/certificates.js";
import { describeStore } from "../unit/metadata/store-conformance.js";
import { hbmesh } from "./commands.js";
import { type Etcd, etcdMissing, freePort, startEtcd } from "./etcd.js";

const clock = createSystemClock();

describe.skipIf(etcdMissing !== undefined)(`etcd with TLS and users ${etcdMissing ?? ""}`, { timeout: 120_000 }, () => {
  let folder = "";
  let etcd: Etcd | undefined;
  let admin: Etcd3 | undefined;
  let tls: EtcdFiles = {};
  const endpoint = (): string => etcd?.endpoint ?? "";

  /** A file with this password, and the user that it is for. */
  const login = (user: string, password: string): EtcdFiles => {
    const file = join(folder, `${user}.password`);
    writeFileSync(file, `${password}\n`);
    return { ...tls, etcdUser: user, etcdPasswordFile: file };
  };

  const openAdmin = (auth?: { username: string; password: string }): Etcd3 => {
    const { hosts, tls: material } = loadEtcdAccess([endpoint()], tls);
    const { ca, cert, key } = material as { ca: Buffer; cert: Buffer; key: Buffer };
    const credentials = { rootCertificate: ca, certChain: cert, privateKey: key };
    return new Etcd3({ hosts, credentials, ...(auth === undefined ? {} : { auth }) });
  };

  /** A user that may read and write the keys of this range. */
  const createUser = async (client: Etcd3, name: string, password: string, range: Range): Promise<void> => {
    const role = await client.role(name).create();
    await role.grant({ permission: "Readwrite", range });
    await client.user(name).create(password);
    await client.user(name).addRole(name);
  };

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "hbmesh-etcd-access-"));
    const authority = createAuthority(folder, "etcd");
    const { tlsCert, tlsKey, tlsCa } = authority.issue("worker");
    tls = { etcdCa: tlsCa, etcdCert: tlsCert, etcdKey: tlsKey };
    etcd = await startEtcd({ server: authority.issue("server"), files: tls });
    const before = openAdmin();
    await before.user("root").create("root-secret");
    await before.role("root").create();
    await before.user("root").addRole("root");
    await createUser(before, "all", "all-secret", new Range(Buffer.from([0]), Buffer.from([0])));
    await createUser(before, "hbmesh", "hbmesh-secret", Range.prefix("hbmesh/"));
    await before.auth.authEnable();
    before.close();
    admin = openAdmin({ username: "root", password: "root-secret" });
  });

  afterAll(async () => {
    admin?.close();
    await etcd?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  describeStore("etcd with TLS, as a user", async () => {
    const store = createEtcdStore([endpoint()], clock, login("all", "all-secret"));
    return { store, close: () => store.close(), pass: (durationMs) => pause(clock, durationMs) };
  });

  it("proxies of the environment are not between, neither at the login nor later", async () => {
    const names = ["http_proxy", "https_proxy", "grpc_proxy", "no_proxy", "no_grpc_proxy"];
    const before = names.map((name) => [name, process.env[name]] as const);
    for (const [name] of before) {
      delete process.env[name];
    }
    process.env.http_proxy = process.env.https_proxy = process.env.grpc_proxy = "http://127.0.0.1:1";
    const store = createEtcdStore([endpoint()], clock, login("hbmesh", "hbmesh-secret"));
    try {
      await store.put("hbmesh/proxied", Buffer.from("1"), { timeoutMs: 5_000 });
      await expect(store.get("hbmesh/proxied", { timeoutMs: 5_000 })).resolves.toMatchObject({ key: "hbmesh/proxied" });
      await store.delete("hbmesh/proxied");
    } finally {
      await store.close();
      for (const [name, value] of before) {
        if (value === undefined) {
          delete process.env[name];
        } else {
          process.env[name] = value;
        }
      }
    }
  });

  it("refusals say what etcd said and what to check", async () => {
    const probe = async (files: EtcdFiles, key = "hbmesh/x"): Promise<unknown> => {
      const store = createEtcdStore([endpoint()], clock, files);
      try {
        return await store.get(key, { timeoutMs: 3_000 });
      } finally {
        await store.close();
      }
    };
    await expect(probe(login("hbmesh", "hbmesh-secret"))).resolves.toBeUndefined();
    const refused = { code: StatusCode.NOT_AUTHORIZED, node: endpoint() };
    const remedy = "check --etcd_user and --etcd_password_file, and that the user's role may read and write the prefix";
    for (const [files, key] of [
      [login("hbmesh", "hbmesh-secret"), "elsewhere"],
      [login("hbmesh", "wrong"), "hbmesh/x"],
      [login("nobody", "hbmesh-secret"), "hbmesh/x"],
    ] as const) {
      await expect(probe(files, key)).rejects.toMatchObject({ ...refused, message: expect.stringContaining(remedy) });
    }
    const stranger = createAuthority(folder, "stranger").issue("worker");
    const strange = { etcdCert: stranger.tlsCert, etcdKey: stranger.tlsKey };
    const unreachable = { code: StatusCode.RPC_UNAVAILABLE, node: endpoint() };
    await expect(probe({ ...login("all", "all-secret"), ...strange })).rejects.toMatchObject(unreachable);
    await expect(probe({ ...login("all", "all-secret"), etcdCa: stranger.tlsCa })).rejects.toMatchObject(unreachable);
  });

  it("a login that etcd knows no more is renewed with what the file has now, and its leases go on", async () => {
    const files = login("hbmesh", "hbmesh-secret");
    const store = createEtcdStore([endpoint()], clock, files);
    const lease = await store.grantLease(60_000);
    await expect(store.keepAlive(lease)).resolves.toBe(true);
    const put = async (): Promise<boolean> =>
      (await store.put("hbmesh/x", Buffer.from("1"), { leaseId: lease })).written;
    await expect(put()).resolves.toBe(true);
    for (const password of ["second-secret", "third-secret"]) {
      await admin?.user("hbmesh").setPassword(password);
      await expect(put()).rejects.toMatchObject({ code: StatusCode.NOT_AUTHORIZED });
      writeFileSync(files.etcdPasswordFile as string, `${password}\n`);
      await expect(put()).resolves.toBe(true);
      await expect(store.keepAlive(lease)).resolves.toBe(true);
    }
    await store.revokeLease(lease);
    await store.close();
    await admin?.user("hbmesh").setPassword("hbmesh-secret");
  });

  it("a worker starts with the options, shows no secret, and says why it can't with a wrong password", async () => {
    const address = `127.0.0.1:${await freePort()}`;
    const flags = ["--worker_address", address, "--etcd_address", endpoint(), "--shared_memory_size_mb", "16"];
    const optionsOf = ({ etcdUser, etcdPasswordFile }: EtcdFiles): string[] => [
      ...[
        "--etcd_ca",
        tls.etcdCa as string,
        "--etcd-cert",
        tls.etcdCert as string,
        "--etcd_key",
        tls.etcdKey as string,
      ],
      ...["--etcd_user", etcdUser as string, "--etcd_password_file", etcdPasswordFile as string],
    ];
    const refused = await hbmesh("start", "-w", "--log_dir", folder, ...flags, ...optionsOf(login("hbmesh", "wrong")));
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain("check --etcd_user and --etcd_password_file");
    try {
      const own = optionsOf(login("hbmesh", "hbmesh-secret"));
      const { code, stdout, stderr } = await hbmesh("start", "-w", "--json", "--log_dir", folder, ...flags, ...own);
      expect(code, stderr).toBe(0);
      const { pid, log } = JSON.parse(stdout) as { pid: number; log: string };
      for (const text of [readFileSync(log, "utf8"), readFileSync(`/proc/${pid}/cmdline`, "utf8")]) {
        expect(text).not.toContain("hbmesh-secret");
      }
    } finally {
      const stopped = await hbmesh("stop", "--worker_address", address);
      expect(stopped.code, stopped.stderr).toBe(0);
    }
  });
});

describe("options of an etcd", () => {
  const resolve = (more: object): WorkerConfig =>
    resolveWorkerConfig({ workerAddress: "127.0.0.1:31501", metadataAddress: "10.0.0.1:2379,10.0.0.2:2379", ...more });

  it("an authority or a certificate means TLS; https:// too", () => {
    expect(loadEtcdAccess(["a:1"], {}).hosts).toEqual(["http://a:1"]);
    expect(loadEtcdAccess(["https://a:1"], {})).toMatchObject({ hosts: ["https://a:1"], tls: { ca: undefined } });
    expect(loadEtcdAccess(["a:1", "https://b:1"], { etcdCa: "/dev/null" }).hosts).toEqual([
      "https://a:1",
      "https://b:1",
    ]);
  });

  it("what does not fit together is refused by name", () => {
    for (const [settings, message] of [
      [{ metadataAddress: "memory", etcdUser: "a", etcdPasswordFile: "b" }, "--etcd_user says how etcd is reached"],
      [{ etcdUser: "a" }, "--etcd_user and --etcd_password_file go together"],
      [{ etcdCert: "a" }, "--etcd_cert and --etcd_key go together"],
      [{ metadataAddress: "http://a:1", etcdCa: "ca" }, "etcd endpoint http://a:1 does not fit"],
      [{ metadataAddress: "https://a:1,http://b:1" }, "etcd endpoint http://b:1 does not fit"],
    ] as const) {
      expect(() => resolve(settings)).toThrow(message);
    }
    expect(resolve({ etcdUser: "a", etcdPasswordFile: "b" }).etcdUser).toBe("a");
  });

  it("files are named when they can't be read, or say nothing", () => {
    const user = { etcdUser: "a", etcdPasswordFile: "/nowhere/password" };
    expect(() => loadEtcdAccess(["a:1"], user)).toThrow("--etcd_password_file /nowhere/password can't be read");
    const empty = { ...user, etcdPasswordFile: "/dev/null" };
    expect(() => loadEtcdAccess(["a:1"], empty)).toThrow("/dev/null must have the password in its first line");
    expect(() => createEtcdStore(["a:1"], clock, { etcdCa: "/nowhere/ca" })).toThrow("--etcd_ca /nowhere/ca can't be");
  });
});
