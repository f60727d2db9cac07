/**
 * Goal: a log that can't be written costs lines, and neither an exception nor, for long, time. Method: descriptors that
 * refuse every byte, and a pipe whose reader stops and goes on.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { LogWriter } from "../../../src/base/log-writer.js";

describe("the writer of a log", () => {
  it("writes whole lines", () => {
    const folder = mkdtempSync(join(tmpdir(), "hbmesh-log-"));
    const path = join(folder, "log");
    const fd = openSync(path, "a");
    const writer = new LogWriter(fd);
    writer.write("one\n");
    writer.write("zwölf\n");
    closeSync(fd);
    expect(readFileSync(path, "utf8")).toBe("one\nzwölf\n");
    rmSync(folder, { recursive: true });
  });

  it("a disk that is full, and a descriptor that is closed: the line is lost", () => {
    const full = openSync("/dev/full", "w");
    const writer = new LogWriter(full);
    expect(() => writer.write("lost\n")).not.toThrow();
    closeSync(full);
    expect(() => writer.write("lost\n")).not.toThrow();
  });

  it("a reader that has stopped holds it up once, and has what comes after it goes on", async () => {
    const cat = spawn("cat", { stdio: ["pipe", "pipe", "ignore"] });
    const stdin = cat.stdin as unknown as Socket & { _handle: { fd: number } };
    cat.kill("SIGSTOP");
    const writer = new LogWriter(stdin._handle.fd, 20);
    const long = `${"x".repeat(9_999)}\n`;
    // More than a pipe holds, and each without its 20 ms: as a whole this would take minutes.
    for (let line = 0; line < 20_000; line++) {
      writer.write(long);
    }
    cat.kill("SIGCONT");
    let heard = "";
    cat.stdout.setEncoding("utf8").on("data", (text: string) => {
      heard = (heard + text).slice(-100);
    });
    while (!heard.includes("last\n")) {
      writer.write("last\n");
      await new Promise((resolve) => setImmediate(resolve));
    }
    stdin.end();
    await once(cat, "close");
    expect(() => writer.write("lost\n")).not.toThrow();
  });
});
