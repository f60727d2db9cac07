/**
 * `hbmesh exist`, `hbmesh meta`, `hbmesh delete`: objects by key, asked of any worker over its Connect API.
 * Exit code 1 when a key could not be answered; a key that isn't there is an answer.
 */
import type { Command } from "commander";
import { StatusCode } from "../base/errors.js";
import { Presence } from "../gen/hbmesh/v1/objects_pb.js";
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
}
