/**
 * Goal: `hbmesh bench link` prints perftest's tables, in perftest's units.
 * Method: rows with round numbers, compared with lines as perftest prints them.
 */
import { describe, expect, it } from "vitest";
import { bandwidthHead, bandwidthLine, inUnit, latencyHead, latencyLine, latencyRow } from "../../../src/bench/link.js";

const row = { bytes: 65_536, iterations: 1000, lanes: 2, average: 2 ** 30, peak: 2 ** 31 };

describe("bandwidth", () => {
  it("has perftest's heads", () => {
    expect(bandwidthHead(false)).toBe(
      " #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]",
    );
    expect(bandwidthHead(true)).toBe(
      " #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]   MsgRate[Mpps]",
    );
  });

  it("counts megabytes of 2^20 bytes, gigabits of 10^9 bits, messages in millions a second", () => {
    expect(inUnit(2 ** 20, false)).toBe(1);
    expect(inUnit(125_000_000, true)).toBe(1);
    expect(bandwidthLine(row, false).trim().split(/\s+/)).toEqual(["65536", "1000", "2048.00", "1024.00", "0.016384"]);
    expect(bandwidthLine(row, true).trim().split(/\s+/)).toEqual(["65536", "1000", "17.18", "8.59", "0.016384"]);
  });

  it("puts each figure below the start of its title", () => {
    const starts = [...bandwidthLine(row, false).matchAll(/\S+/g)].map((match) => match.index);
    const titles = ["#bytes", "#iterations", "BW peak", "BW average", "MsgRate"];
    expect(starts).toEqual(titles.map((title) => bandwidthHead(false).indexOf(title)));
  });
});

describe("latency", () => {
  it("has perftest's columns", () => {
    expect(latencyHead).toBe(
      " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]   " +
        "99% percentile[usec]   99.9% percentile[usec]",
    );
    const line = latencyLine(latencyRow(2, [1, 2, 3, 4]));
    expect(line.trim().split(/\s+/)).toEqual(["2", "4", "1.00", "4.00", "2.50", "2.50", "1.12", "3.97", "4.00"]);
  });
});
