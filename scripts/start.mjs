#!/usr/bin/env node
import { join } from "node:path";
/** `npm start`: sets up, then runs the main job (`hbmesh demo`) with the arguments given. stdout is the job's alone. */
import { pathToFileURL } from "node:url";
import { root } from "./setup/run.mjs";
import { setUpOrExit } from "./setup.mjs";

await setUpOrExit(["build", "start"], { quiet: true });
const { main } = await import(pathToFileURL(join(root, "dist/cli/main.js")).href);
process.exitCode = await main(["demo", ...process.argv.slice(2)]);
