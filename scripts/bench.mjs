#!/usr/bin/env node
/** `npm run bench`: sets up, then measures; arguments go to bench/main-job.mjs. */
import { setUpOrExit } from "./setup.mjs";

await setUpOrExit(["build"], { quiet: true });
await import("../bench/main-job.mjs");
