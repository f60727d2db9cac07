/**
 * Decisions for simulated control processes: the real Wasm, an instance for each, with fewer tokens a member in its
 * ring where there are very many. A thousand rings of a thousand members would take 40 GiB with all the tokens; how
 * evenly these share the keys is measured apart, in one ring that has them (placement.ts).
 */
import { createDecisions, type DecisionOptions, type Decisions, type RingMember } from "../decision/index.js";
import { instantiateDecisions } from "../decision/module.js";

export interface SimDecisionOptions extends DecisionOptions {
  tokens: number;
}

/** Tokens of a member of weight 1, as the module has it. */
export const TOKENS_PER_WEIGHT = instantiateDecisions().tokensPerWeight.value as number;

/** Tokens of all rings of a simulation together: what they take stays below about 1 GiB. */
const TOKENS_TOTAL_MAX = 32_000_000;
const TOKENS_MIN = 32;

/**
 * How many tokens a member may have when each of so many workers has a ring of all of them: all that there are up to
 * 102 workers, 32 for 1,000.
 */
export function affordableTokens(workers: number): number {
  return Math.min(TOKENS_PER_WEIGHT, Math.max(TOKENS_MIN, Math.floor(TOKENS_TOTAL_MAX / workers ** 2)));
}

export function createSimDecisions({ tokens, ...options }: SimDecisionOptions): Decisions {
  const decisions = createDecisions(options);
  const share = tokens / TOKENS_PER_WEIGHT;
  const setRing = decisions.setRing.bind(decisions);
  decisions.setRing = (members: readonly RingMember[]) =>
    setRing(members.map((member) => ({ ...member, weight: member.weight * share })));
  return decisions;
}
