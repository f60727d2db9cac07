/** `hbmesh members`, `hbmesh health`: what one worker knows of its cluster and of itself, over its Connect API. */
import type { Command } from "commander";
import { type ApiOptions, answerOf, clusterClient, withApiOptions } from "./api-client.js";
import { formatTable, grouped, toJson } from "./table.js";

async function members(options: ApiOptions): Promise<number> {
  const answer = await answerOf(options, clusterClient(options).listMembers({}));
  const rows = answer.members.map((member) => ({
    id: member.id,
    workerAddress: member.workerAddress,
    linkAddress: member.linkAddress,
    transports: member.transports.map(({ name, address }) => ({ name, address })),
    weight: member.weight,
    deviceCount: member.deviceCount,
    hostId: member.hostId,
  }));
  if (options.json === true) {
    process.stdout.write(`${toJson({ epoch: answer.epoch, members: rows })}\n`);
    return 0;
  }
  const columns = [
    { title: "id", right: true },
    { title: "worker" },
    { title: "control link" },
    { title: "devices", right: true },
    { title: "weight", right: true },
    { title: "transports" },
  ];
  const cells = rows.map((row) => [
    String(row.id),
    row.workerAddress,
    row.linkAddress,
    String(row.deviceCount),
    String(row.weight),
    row.transports.map(({ name, address }) => `${name}=${address}`).join(" "),
  ]);
  process.stdout.write(`${formatTable(columns, cells)}epoch ${answer.epoch}\n`);
  return 0;
}

async function health(options: ApiOptions): Promise<number> {
  const answer = await answerOf(options, clusterClient(options).health({}));
  const facts = {
    ready: answer.ready,
    workerAddress: answer.workerAddress,
    reason: answer.reason,
    arenaBytes: answer.arenaBytes,
    arenaUsedBytes: answer.arenaUsedBytes,
    objects: answer.objects,
    sessions: answer.sessions,
    spillBytes: answer.spillBytes,
    spilledObjects: answer.spilledObjects,
    spilledBytes: answer.spilledBytes,
    slots: answer.slots,
    usedSlots: answer.usedSlots,
    tableBytes: answer.tableBytes,
    indexBytes: answer.indexBytes,
    spilledIndexBytes: answer.spilledIndexBytes,
    evictedMemoryFull: answer.evictedMemoryFull,
    evictedTableFull: answer.evictedTableFull,
    evictedTierFull: answer.evictedTierFull,
  };
  if (options.json === true) {
    process.stdout.write(`${toJson(facts)}\n`);
  } else {
    const rows = Object.entries(facts).map(([name, value]) => [
      name,
      typeof value === "bigint" ? grouped(value) : String(value),
    ]);
    process.stdout.write(formatTable([{ title: "what" }, { title: "value" }], rows));
  }
  return answer.ready ? 0 : 1;
}

export function addClusterCommands(program: Command, setExitCode: (code: number) => void): void {
  withApiOptions(program.command("members").description("List the workers of the cluster, as one worker sees it."))
    .addHelpText("after", "\nExamples:\n  $ hbmesh members\n  $ hbmesh members --worker 10.0.0.1:31501 --json")
    .action(async (options: ApiOptions) => {
      setExitCode(await members(options));
    });
  withApiOptions(program.command("health").description("Is this worker ready, and what does it hold?"))
    .addHelpText("after", "\nExamples:\n  $ hbmesh health --worker 10.0.0.1:31501\n\nExit code 1 when it isn't ready.")
    .action(async (options: ApiOptions) => {
      setExitCode(await health(options));
    });
}
