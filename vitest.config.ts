import { configDefaults, defineConfig } from "vitest/config";

// Real processes are started by the tests in test/cluster and test/readme: one file at a time there, so that they
// neither compete for two cores nor disturb each other's looks for leftovers.
export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Too long for the gate: npm run test:slow.
    exclude: [...configDefaults.exclude, ...(process.env.HBMESH_SLOW === "1" ? [] : ["test/slow/**"])],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    fileParallelism: false,
    pool: "forks",
  },
});
