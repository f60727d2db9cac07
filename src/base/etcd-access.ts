/**
 * How a worker reaches an etcd that asks who it is: TLS with a certificate of its own, and a user with a password.
 * Secrets come from files, which are read again when etcd no longer takes what they said, and stand in no message, no
 * log and on no command line.
 */
import { readFileSync } from "node:fs";
import { HbmeshError, StatusCode } from "./errors.js";

export interface EtcdFiles {
  /** Who signs etcd's certificate (PEM). Default: the authorities that Node knows. */
  etcdCa?: string | undefined;
  /** This worker's certificate and its key (PEM), for an etcd with --client-cert-auth. Both or none. */
  etcdCert?: string | undefined;
  etcdKey?: string | undefined;
  /** For an etcd with authentication. The password is the file's first line. Both or none. */
  etcdUser?: string | undefined;
  etcdPasswordFile?: string | undefined;
}

export interface EtcdAccess {
  /** Each with its scheme. */
  hosts: string[];
  /** Undefined: no TLS. */
  tls: { ca: Buffer | undefined; cert: Buffer | undefined; key: Buffer | undefined } | undefined;
  user: { name: string; password: string } | undefined;
}

/**
 * Do these settings fit each other? Throws INVALID naming the options. `endpoints`: undefined if the store is no etcd.
 */
export function checkEtcdFiles(endpoints: readonly string[] | undefined, files: EtcdFiles): void {
  const given = OPTIONS.filter(([name]) => files[name] !== undefined).map(([, option]) => option);
  if (endpoints === undefined && given.length > 0) {
    throw invalid(`${given[0]} says how etcd is reached, and this worker has none: give --etcd_address A,B,C`);
  }
  for (const [one, other] of PAIRS) {
    if ((files[one] === undefined) !== (files[other] === undefined)) {
      throw invalid(`${optionOf(one)} and ${optionOf(other)} go together: give both or neither`);
    }
  }
  const isTls = usesTls(endpoints ?? [], files);
  const odd = (endpoints ?? []).find((endpoint) => endpoint.includes("://") && endpoint.startsWith("https:") !== isTls);
  if (odd !== undefined) {
    const why = "TLS is used with all endpoints of an etcd or with none (https://, --etcd_ca, --etcd_cert)";
    throw invalid(`etcd endpoint ${odd} does not fit the others or the options: ${why}`);
  }
}

/** Reads the files. Throws INVALID naming the option and the file. */
export function loadEtcdAccess(endpoints: readonly string[], files: EtcdFiles): EtcdAccess {
  const { etcdUser, etcdPasswordFile } = files;
  const isTls = usesTls(endpoints, files);
  const read = (name: keyof EtcdFiles): Buffer | undefined => readOptional(name, files[name]);
  return {
    hosts: endpoints.map((at) => (at.includes("://") ? at : `${isTls ? "https" : "http"}://${at}`)),
    tls: isTls ? { ca: read("etcdCa"), cert: read("etcdCert"), key: read("etcdKey") } : undefined,
    user:
      etcdUser === undefined || etcdPasswordFile === undefined
        ? undefined
        : { name: etcdUser, password: passwordOf(read("etcdPasswordFile") as Buffer, etcdPasswordFile) },
  };
}

const OPTIONS: readonly [keyof EtcdFiles, string][] = [
  ["etcdCa", "--etcd_ca"],
  ["etcdCert", "--etcd_cert"],
  ["etcdKey", "--etcd_key"],
  ["etcdUser", "--etcd_user"],
  ["etcdPasswordFile", "--etcd_password_file"],
];
const PAIRS = [
  ["etcdCert", "etcdKey"],
  ["etcdUser", "etcdPasswordFile"],
] as const;

function optionOf(name: keyof EtcdFiles): string {
  return OPTIONS.find(([known]) => known === name)?.[1] ?? name;
}

function usesTls(endpoints: readonly string[], { etcdCa, etcdCert }: EtcdFiles): boolean {
  return etcdCa !== undefined || etcdCert !== undefined || endpoints.some((at) => at.startsWith("https://"));
}

function readOptional(name: keyof EtcdFiles, file: string | undefined): Buffer | undefined {
  try {
    return file === undefined ? undefined : readFileSync(file);
  } catch (cause) {
    const why = (cause as Error).message;
    throw new HbmeshError(StatusCode.INVALID, `${optionOf(name)} ${file} can't be read: ${why}`, { cause });
  }
}

function passwordOf(contents: Buffer, file: string): string {
  const [password = ""] = contents.toString("utf8").split(/\r?\n/);
  if (password === "") {
    throw invalid(`--etcd_password_file ${file} must have the password in its first line`);
  }
  return password;
}

function invalid(message: string): HbmeshError {
  return new HbmeshError(StatusCode.INVALID, message);
}
