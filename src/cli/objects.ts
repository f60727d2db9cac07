/**
 * `hbmesh exist`, `hbmesh meta`, `hbmesh delete`, `hbmesh explain`: objects by key, asked of any worker over its
 * Connect API. Exit code 1 when a key could not be answered; a key that isn't there is an answer.
 */
import type { Command } from "commander";
import { StatusCode } from "../base/errors.js";
import { type ExplainResponse, Presence } from "../gen/hbmesh/v1/objects_pb.js";
import type { KeyStatus } from "../gen/hbmesh/v1/status_pb.js";
import { type ApiOptions, answerOf, objectClient, withApiOptions } from "./api-client.js";
import { formatTable, grouped, toJson } from "./table.js";

interface Row {
  key: string;
  status: string;
  message: string;
}

function statusOf(key: string, status: KeyStatus | undefined): Row {
  const code = status?.code ?? StatusCode.OK;
  return { key, status: StatusCode[code] ?? String(code), message: status?.message ?? "" };
}

function print(options: ApiOptions, rows: readonly object[], table: () => string): void {
  process.stdout.write(options.json === true ? `${toJson({ entries: rows })}\n` : table());
}

/** NOT_FOUND is an answer; everything else that isn't OK is a failure. */
function exitCodeOf(rows: readonly Row[]): number {
  return rows.every((row) => row.status === "OK" || row.status === "NOT_FOUND") ? 0 : 1;
}

async function exist(keys: string[], options: ApiOptions): Promise<number> {
  const answer = await answerOf(options, objectClient(options).exist({ keys }));
  const rows = answer.entries.map((entry) => ({
    ...statusOf(entry.key, entry.status),
    presence: Presence[entry.presence] ?? "UNKNOWN",
  }));
  print(options, rows, () =>
    formatTable(
      [{ title: "key" }, { title: "presence" }, { title: "cause" }],
      rows.map((row) => [row.key, row.presence, row.message]),
    ),
  );
  return rows.some((row) => row.presence === "UNKNOWN") ? 1 : 0;
}

async function meta(keys: string[], options: ApiOptions): Promise<number> {
  const answer = await answerOf(options, objectClient(options).getMetaInfo({ keys }));
  const rows = answer.entries.map((entry) => ({
    ...statusOf(entry.key, entry.status),
    sizeBytes: entry.sizeBytes,
    blobSizes: entry.blobSizes,
    generation: entry.generation,
    locations: entry.locations,
  }));
  print(options, rows, () =>
    formatTable(
      [
        { title: "key" },
        { title: "status" },
        { title: "bytes", right: true },
        { title: "blobs", right: true },
        { title: "generation", right: true },
        { title: "at" },
        { title: "cause" },
      ],
      rows.map((row) => [
        row.key,
        row.status,
        grouped(row.sizeBytes),
        grouped(row.blobSizes.length),
        row.generation.toString(),
        row.locations.join(" "),
        row.message,
      ]),
    ),
  );
  return exitCodeOf(rows);
}

async function remove(keys: string[], options: ApiOptions): Promise<number> {
  const answer = await answerOf(options, objectClient(options).delete({ keys }));
  const rows = answer.entries.map((entry) => ({ ...statusOf(entry.key, entry.status), existed: entry.existed }));
  print(options, rows, () =>
    formatTable(
      [{ title: "key" }, { title: "status" }, { title: "was there" }, { title: "cause" }],
      rows.map((row) => [row.key, row.status, row.existed ? "yes" : "no", row.message]),
    ),
  );
  return exitCodeOf(rows);
}

const FAMILY_NAMES = ["host object", "published", "device cache"] as const;

async function explain(key: string, options: ApiOptions): Promise<number> {
  const known = await answerOf(options, objectClient(options).explain({ key }));
  const status = statusOf(key, known.status);
  const locations = known.locations.map(({ workerAddress, slot, status: at, blobSizes, detail }) => ({
    ...statusOf(workerAddress, at),
    slot,
    blobSizes,
    detail,
  }));
  if (options.json === true) {
    const places = locations.map(({ key: workerAddress, ...location }) => ({ workerAddress, ...location }));
    process.stdout.write(`${toJson({ ...known, ...status, family: FAMILY_NAMES[known.family], locations: places })}\n`);
  } else {
    process.stdout.write(explainText(status, known, locations));
  }
  return exitCodeOf([status]);
}

function explainText(
  status: Row,
  known: ExplainResponse,
  locations: readonly (Row & { slot: number; blobSizes: readonly bigint[]; detail: string })[],
): string {
  const isThere = status.status === "OK";
  const facts: [string, string][] = [
    ["key", status.key],
    ["status", status.status],
    ["cause", status.message],
    ["owner", known.owner],
    ["epoch", known.epoch.toString()],
    ["not announced yet", known.missing.join(" ")],
    ["family", isThere ? (FAMILY_NAMES[known.family] ?? String(known.family)) : ""],
    ["bytes", isThere ? grouped(known.sizeBytes) : ""],
    ["generation", isThere ? known.generation.toString() : ""],
    ["waiting gets", String(known.waiting)],
    ["ended", known.ended],
  ];
  const table = formatTable(
    [{ title: "what" }, { title: "value" }],
    facts.filter(([, value]) => value !== ""),
  );
  if (locations.length === 0) {
    return table;
  }
  const columns = [
    { title: "at" },
    { title: "slot", right: true },
    { title: "status" },
    { title: "blobs", right: true },
    { title: "detail" },
  ];
  const rows = locations.map(({ key, slot, status: code, message, blobSizes, detail }) => [
    key,
    String(slot),
    code,
    grouped(blobSizes.length),
    message === "" ? detail : message,
  ]);
  return `${table}\n${formatTable(columns, rows)}`;
}

export function addObjectCommands(program: Command, setExitCode: (code: number) => void): void {
  const add = (
    name: string,
    description: string,
    example: string,
    run: (keys: string[], options: ApiOptions) => Promise<number>,
  ): void => {
    withApiOptions(program.command(name).description(description).argument("<keys...>", "one key or several"))
      .addHelpText("after", `\nExamples:\n${example}`)
      .action(async (keys: string[], options: ApiOptions) => {
        setExitCode(await run(keys, options));
      });
  };
  add(
    "exist",
    "Tell for each key whether it is there: HIT, MISS, or UNKNOWN when its owner can't be reached. Renews nothing.",
    "  $ hbmesh exist layer-0 layer-1\n  $ hbmesh exist --worker 10.0.0.1:31501 --json layer-0\n\nExit code 1 when a key is UNKNOWN.",
    exist,
  );
  add(
    "meta",
    "Show size, blobs, generation and place of each key.",
    "  $ hbmesh meta layer-0\n  $ hbmesh meta --json layer-0 | jq .entries[0].blobSizes",
    meta,
  );
  add(
    "delete",
    "Remove objects. Answered when every reachable holder has dropped the bytes; a key that isn't there is OK.",
    "  $ hbmesh delete layer-0 layer-1",
    remove,
  );
  const command = program
    .command("explain")
    .description(
      "Tell everything that is known of one key: its owner, where it is, what each holder says, why it is gone.",
    )
    .argument("<key>", "the key");
  withApiOptions(command)
    .addHelpText(
      "after",
      "\nExamples:\n  $ hbmesh explain layer-0\n  $ hbmesh explain --json --worker 10.0.0.1:31501 --token_file token layer-0\n\n" +
        "Exit code 1 when it can't be told whether the key is there.",
    )
    .action(async (key: string, options: ApiOptions) => {
      setExitCode(await explain(key, options));
    });
}
