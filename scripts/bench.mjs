#!/usr/bin/env node
/** `npm run bench`: sets up, then measures; arguments go to bench/run.mjs. */
import { setUpOrExit } from "./setup.mjs";

await setUpOrExit(["build"], { quiet: true });
await import("../bench/run.mjs");
