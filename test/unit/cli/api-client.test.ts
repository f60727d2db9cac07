/** Goal: a command tells why a worker did not let it in. Method: what Connect throws, and what was shown. */
import { Code, ConnectError } from "@connectrpc/connect";
import { afterEach, describe, expect, it, vi } from "vitest";
import { StatusCode } from "../../../src/base/errors.js";
import { failureOf } from "../../../src/cli/api-client.js";

const worker = "127.0.0.1:31501";
const refused = new ConnectError("the request has no token", Code.Unauthenticated);

afterEach(() => vi.unstubAllEnvs());

describe("what a command says that a worker did not let in", () => {
  it("is what to give, where nothing was shown", () => {
    vi.stubEnv("HBMESH_TOKEN", "");
    expect(failureOf({ worker }, refused)).toMatchObject({
      code: StatusCode.NOT_AUTHORIZED,
      message: expect.stringContaining("give --token_file FILE"),
    });
  });

  it("looks at no file where a worker's own proof was shown", () => {
    const shown = { worker, token: "proof", token_file: "/nowhere/token" };
    expect(failureOf(shown, refused).message).not.toContain("token_file");
  });
});
