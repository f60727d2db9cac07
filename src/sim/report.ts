/** A simulation's result as text for people. */
import type { ScenarioResult } from "./scenario.js";
import type { SimulationResult } from "./simulation.js";

const FAULTS_SHOWN_MAX = 20;

export function formatReport(result: SimulationResult): string {
  const lines = [`seed ${result.seed}, ${result.workers} workers, ${result.tokens} tokens a member`];
  const { placement, start } = result;
  if (placement !== undefined) {
    const { keys, largestShare, smallestShare, movedByJoin, movedShare } = placement;
    lines.push(
      `placement of ${keys} keys: the largest owner has ${largestShare.toFixed(4)} x the mean, the smallest ${smallestShare.toFixed(4)}`,
      `a join moves ${movedByJoin} of them: ${movedShare.toFixed(4)} / N, all to the one that joined`,
    );
  }
  if (start !== undefined) {
    const { settledMs, messages, messagesPerMember, objects } = start;
    lines.push(
      `all started at once: ${(settledMs / 1_000).toFixed(2)} s until all knew of all, ${messages} messages, ${messagesPerMember.toFixed(1)} a member; then ${objects} objects`,
    );
  }
  if (result.scenarios.length > 0) {
    lines.push("", ...table(result.scenarios), "", LEGEND);
  }
  const { faults } = result;
  if (faults.length > 0) {
    lines.push("", `FAULTS: ${faults.length}`, ...faults.slice(0, FAULTS_SHOWN_MAX));
  }
  const digest = result.digest === "" ? "" : `, digest ${result.digest}`;
  lines.push(
    "",
    `${result.virtualSeconds.toFixed(1)} s of virtual time in ${result.secondsReal.toFixed(1)} s${digest}`,
  );
  return `${lines.join("\n")}\n`;
}

const LEGEND = `settled: from the change (or its end) until every member gives sure answers again
messages: about the change, between control processes, replies counted; a member: divided by the members
checked, found: keys that were set for sure, looked for at random hosts; gone: their only bytes went with a host
hits, misses, unknown: answers to clients while it happened; failed: writes that were not confirmed
old: bytes that a cut-off host served to its own clients after others had deleted or replaced them, as it may
wrong: misses of keys that are there, other bytes than were set, keys that were said to exist and did not`;

const HEADS = [
  "scenario",
  "settled s",
  "messages",
  "a member",
  "checked",
  "found",
  "gone",
  "hits",
  "misses",
  "unknown",
  "failed",
  "old",
  "wrong",
];

function table(scenarios: readonly ScenarioResult[]): string[] {
  const rows = scenarios.map(({ name, settledMs, messages, messagesPerMember, check, calls, violations }) => [
    name,
    (settledMs / 1_000).toFixed(2),
    String(messages),
    messagesPerMember.toFixed(1),
    String(check.checked),
    String(check.found),
    String(check.lostWithBytes),
    String(calls.hits),
    String(calls.misses),
    String(calls.unknown),
    String(calls.failedWrites),
    String(calls.staleLocal),
    String(violations.length),
  ]);
  const widths = HEADS.map((head, column) => Math.max(head.length, ...rows.map((row) => (row[column] ?? "").length)));
  return [HEADS, ...rows].map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join("  "),
  );
}
