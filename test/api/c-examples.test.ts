/**
 * Goal: the C examples of docs/API.md compile without a warning and do what they say, with both clients at one worker
 * and at two. Method: each stands as it is in a function with what the page says is there; the program is compiled
 * against hbmesh.h and libhbmesh.so, and every status and the bytes that arrived are looked at after the example.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { run } from "../cluster/commands.js";
import { type Fixture, startFixture } from "../cluster/fixture.js";
import { read, root } from "../contract/sources.js";

const libraryFolder = process.env["HBMESH_NATIVE_DIR"] ?? `${root}build/Release`;
const examples = [
  ...read("docs/API.md").matchAll(/<!-- example: ([\w-]+) -->\n```ts\n[\s\S]*?```\n```c\n([\s\S]*?)```/g),
].map(([, name = "", code = ""]) => ({ name, code }));
/** Those that bring the bytes of `source` to `target`. */
const bringing = ["set-get", "publish-subscribe", "device-cache", "layers"];

const prologue = `
#include <stdio.h>
#include <string.h>
#include "capi/hbmesh.h"

static int failed;
static const char* address;
static void check(const char* example, hbmesh_status status) {
  if (status == HBMESH_OK) return;
  printf("%s: %s: %s\\n", example, hbmesh_status_name(status), hbmesh_last_message());
  failed = 1;
}
static uint64_t memory(uint32_t device, int byte) {
  unsigned char bytes[4096];
  uint64_t pointer = 0;
  memset(bytes, byte, sizeof(bytes));
  check("memory", hbmesh_sim_allocate(device, sizeof(bytes), &pointer));
  check("memory", hbmesh_sim_copy_in(pointer, bytes, sizeof(bytes)));
  return pointer;
}
static void check_bytes(const char* example, uint64_t pointer) {
  unsigned char bytes[4096] = {0};
  check(example, hbmesh_sim_copy_out(bytes, pointer, sizeof(bytes)));
  if (bytes[0] == 9 && bytes[4095] == 9) return;
  printf("%s: the bytes are not there\\n", example);
  failed = 1;
}
static hbmesh_batch batch_of(const char* const* keys, const uint32_t* ends, const uint64_t* pointer, const uint64_t* size) {
  hbmesh_batch batch = HBMESH_INIT(hbmesh_batch);
  batch.key_count = 1;
  batch.keys = keys;
  batch.blob_count = pointer == NULL ? 0 : 1;
  batch.blob_ends = ends;
  batch.pointers = pointer;
  batch.blob_bytes = size;
  return batch;
}
static hbmesh_client* connect_to(const char* worker) {
  hbmesh_client_options options = HBMESH_INIT(hbmesh_client_options);
  hbmesh_client* client = NULL;
  options.worker_address = worker;
  check("create", hbmesh_client_create(&options, &client));
  check("init", hbmesh_client_init(client));
  return client;
}
`;

/** The example as a function, with the names that the page promises. */
function functionOf({ name, code }: { name: string; code: string }): string {
  const inside = code.replace('"127.0.0.1:31501"', "address");
  return `
static void example_${name.replaceAll("-", "_")}(hbmesh_client* client, hbmesh_client* other) {
  uint64_t source = memory(0, 9), target = memory(1, 0), pointer = memory(0, 1);
  const uint64_t source_size = 4096;
  const char* const example_keys[] = {"example-${name}"};
  const uint32_t example_ends[] = {1};
  hbmesh_batch source_batch = batch_of(example_keys, example_ends, &source, &source_size);
  hbmesh_batch target_batch = batch_of(example_keys, example_ends, &target, &source_size);
  hbmesh_batch layers = batch_of(NULL, example_ends, &target, &source_size);
  hbmesh_batch key_batch = batch_of(example_keys, NULL, NULL, NULL);
  hbmesh_batch batch = source_batch;
  target_batch.device_index = layers.device_index = 1;
  (void)client, (void)other, (void)pointer, (void)target_batch, (void)key_batch, (void)batch, (void)layers;
  {
${inside}
${/\bhbmesh_status status\b/.test(code) ? `check("${name}", status);` : ""}
  }
  ${bringing.includes(name) ? `check_bytes("${name}", target);` : ""}
}
`;
}

const program = `${prologue}${examples.map(functionOf).join("")}
int main(int argc, char** argv) {
  hbmesh_client* client = argc > 2 ? connect_to(argv[1]) : NULL;
  hbmesh_client* other = argc > 2 ? connect_to(argv[2]) : NULL;
  if (client == NULL || other == NULL) return 2;
  address = argv[1];
${examples.map(({ name }) => `  example_${name.replaceAll("-", "_")}(client, other);`).join("\n")}
  hbmesh_client_free(client);
  hbmesh_client_free(other);
  return failed;
}
`;

describe("C examples of docs/API.md", () => {
  let folder: string;
  let fixture: Fixture;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "hbmesh-examples-"));
    writeFileSync(join(folder, "examples.c"), program);
    fixture = await startFixture();
  });

  afterAll(async () => {
    await fixture.close();
    rmSync(folder, { recursive: true });
  });

  it("are those that this test knows", () => {
    expect(examples.map(({ name }) => name)).toEqual(expect.arrayContaining(["client", "sim", "set-options", "more"]));
    expect(examples.map(({ name }) => name)).toEqual(expect.arrayContaining(bringing));
  });

  it("compile without a warning, and run with clients of one worker and of two", async () => {
    const [source, target] = [join(folder, "examples.c"), join(folder, "examples")];
    const warnings = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"];
    const library = [`-L${libraryFolder}`, "-lhbmesh", `-Wl,-rpath,${libraryFolder}`];
    const compiled = await run("cc", [...warnings, `-I${root}native`, source, "-o", target, ...library]);
    expect(compiled).toMatchObject({ code: 0, stderr: "" });
    for (const second of fixture.addresses) {
      const ran = await run(target, [fixture.addresses[0] ?? "", second]);
      expect(ran).toMatchObject({ code: 0, stderr: "" });
      expect(ran.stdout).not.toMatch(/not there|: [A-Z_]+:/);
    }
  });
});
