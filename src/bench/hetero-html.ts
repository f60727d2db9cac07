/** The hetero benchmark as one self-contained page: throughput and latency by case beside the limit, and the table. */
import type { HeteroResult } from "./hetero.js";
import type { HeteroOperation, HeteroRow } from "./hetero-rows.js";
import { type Bar, type BarGroup, barChart, escapeText, shortNumber } from "./svg.js";

const operations: Record<HeteroOperation, { kind: string; text: string }> = {
  mset_d2h: { kind: "set", text: "mset_d2h: HBM to host" },
  mget_h2d: { kind: "get", text: "mget_h2d: host to HBM, at the other worker" },
  mget_h2d_local: { kind: "local", text: "mget_h2d_local: host to HBM, at the same worker" },
};

const style = `
:root { --paper: #fff; --ink: #1d2430; --soft: #667085; --rule: #d9dee7; --set: #3b6fb6; --get: #d9822b; --local: #4d9e6b; --limit: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181f; --ink: #e6e9ef; --soft: #98a2b3; --rule: #313947; --set: #6fa0e3; --get: #f0a860; --local: #74c394; --limit: #ff8a80; }
}
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.facts, .legend { color: var(--soft); }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; }
svg .label { text-anchor: end; } svg .axis { text-anchor: middle; fill: var(--soft); } svg .unit, svg .value { fill: var(--soft); }
svg .tick { stroke: var(--rule); } svg .limit { stroke: var(--limit); stroke-width: 2; }
.set { fill: var(--set); } .get { fill: var(--get); } .local { fill: var(--local); } .span { opacity: .35; }
.legend span { display: inline-block; margin-right: 1.4rem; }
.legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem; vertical-align: -1px; }
.legend i.set { background: var(--set); } .legend i.get { background: var(--get); } .legend i.local { background: var(--local); }
.legend i.line { background: var(--limit); width: 3px; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--rule); padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
`;

function groupsOf(rows: readonly HeteroRow[], barOf: (row: HeteroRow) => Bar): BarGroup[] {
  const tests = [...new Set(rows.map((row) => row.test))];
  return tests.map((test) => ({ label: test, bars: rows.filter((row) => row.test === test).map(barOf) }));
}

function throughputBar(row: HeteroRow): Bar {
  const percent = (row.ratio * 100).toFixed(0);
  return {
    label: row.operate,
    kind: operations[row.operate].kind,
    value: row.wallMbPerSecond,
    limit: row.limitMbPerSecond,
    text: `${shortNumber(row.wallMbPerSecond)} (${percent}%)`,
    title: `${row.operate} over ${row.path}: ${row.wallMbPerSecond.toFixed(0)} MB/s, ${percent}% of ${row.against}`,
  };
}

/** What one call would take if its bytes went at the speed of the limit, all clients sharing it. */
function limitLatencyMs(row: HeteroRow): number {
  return (row.totalMb / row.ops / row.limitMbPerSecond) * 1000;
}

function latencyBar(row: HeteroRow): Bar {
  const { min, p50, p99 } = row.latencyMs;
  return {
    label: row.operate,
    kind: operations[row.operate].kind,
    value: p50,
    span: [min, p99],
    limit: limitLatencyMs(row),
    title: `${row.operate}: min ${min.toFixed(3)}, p50 ${p50.toFixed(3)}, p99 ${p99.toFixed(3)} ms`,
  };
}

const columns: [string, (row: HeteroRow) => string][] = [
  ["test", (row) => row.test],
  ["operate", (row) => row.operate],
  ["ops", (row) => String(row.ops)],
  ["total MB", (row) => row.totalMb.toFixed(1)],
  ["duration s", (row) => row.durationSeconds.toFixed(3)],
  ["latency/req s", (row) => row.latencyPerRequestSeconds.toFixed(5)],
  ["MB/s by latency", (row) => row.throughputMbPerSecond.toFixed(0)],
  ["MB/s by clock", (row) => row.wallMbPerSecond.toFixed(0)],
  ["limit MB/s", (row) => row.limitMbPerSecond.toFixed(0)],
  ["ratio", (row) => `${(row.ratio * 100).toFixed(0)}%`],
  ["against", (row) => `${row.against}, ${row.lanes}`],
  ["p50 ms", (row) => row.latencyMs.p50.toFixed(3)],
  ["p99 ms", (row) => row.latencyMs.p99.toFixed(3)],
  ["path", (row) => row.path],
];

function tableHtml(rows: readonly HeteroRow[]): string {
  const head = columns.map(([title]) => `<th>${escapeText(title)}</th>`).join("");
  const body = rows.map((row) => {
    const cells = columns.map(([, cellOf]) => `<td>${escapeText(cellOf(row))}</td>`);
    return `<tr>${cells.join("")}</tr>`;
  });
  return `<div class="table"><table><thead><tr>${head}</tr></thead><tbody>\n${body.join("\n")}\n</tbody></table></div>`;
}

function legendHtml(rows: readonly HeteroRow[], limitText: string): string {
  const present = (Object.keys(operations) as HeteroOperation[]).filter((operate) =>
    rows.some((row) => row.operate === operate),
  );
  const items = present.map(
    (operate) => `<span><i class="${operations[operate].kind}"></i>${escapeText(operations[operate].text)}</span>`,
  );
  return `<p class="legend">${items.join("")}<span><i class="line"></i>${escapeText(limitText)}</span></p>`;
}

/** `facts` is what the figures depend on: machine, date, command. */
export function heteroHtml(result: HeteroResult, facts: readonly string[]): string {
  const { rows } = result;
  const devices = result.backend === "sim" ? "Devices are simulated: shared memory, copied by the processor." : "";
  const skipped = result.skipped.map(({ test, reason }) => `<li>${escapeText(`${test}: ${reason}`)}</li>`).join("");
  const throughput = barChart({ title: "Throughput", unit: "MB/s", groups: groupsOf(rows, throughputBar) });
  const latency = barChart({
    title: "Latency",
    unit: "ms, logarithmic",
    groups: groupsOf(rows, latencyBar),
    logarithmic: true,
  });
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>hbmesh bench hetero</title>
<style>${style}</style>
</head>
<body>
<h1>hbmesh bench hetero</h1>
<p class="facts">${[...facts, devices]
    .filter((fact) => fact !== "")
    .map(escapeText)
    .join("<br>")}</p>
<h2>Throughput</h2>
${legendHtml(rows, "limit: one copy, or raw sockets, with as many threads or connections")}
${throughput}
<p class="facts">Bytes over wall-clock time of all processes and threads. MB are 2^20 bytes.</p>
<h2>Latency of a call</h2>
${legendHtml(rows, "the bytes at the speed of the limit, shared by all clients")}
${latency}
<p class="facts">The point is the median, the band reaches from the shortest call to the 99th percentile.</p>
<h2>All figures</h2>
${tableHtml(rows)}
<p class="facts">By latency: size of a request by mean latency, the first request left out, times the processes; how other
benchmarks of this kind count. By clock: all bytes by the time from the first start to the last end.</p>
${skipped === "" ? "" : `<h2>Skipped</h2>\n<ul>${skipped}</ul>`}
</body>
</html>
`;
}
