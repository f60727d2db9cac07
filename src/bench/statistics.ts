/** Numbers about samples. Percentiles interpolate between neighbours, as numpy's do. */

export function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** NaN of none. */
export function mean(values: readonly number[]): number {
  return sum(values) / values.length;
}

/** NaN of none. `percent` from 0 (the least) to 100 (the largest). */
export function percentile(values: readonly number[], percent: number): number {
  const sorted = Float64Array.from(values).sort();
  const place = ((sorted.length - 1) * percent) / 100;
  const below = Math.floor(place);
  const low = sorted[below] ?? Number.NaN;
  const high = sorted[Math.min(below + 1, sorted.length - 1)] ?? Number.NaN;
  return low + (high - low) * (place - below);
}

export function median(values: readonly number[]): number {
  return percentile(values, 50);
}

/** What a list of latencies says, in their unit. */
export interface Spread {
  min: number;
  max: number;
  mean: number;
  p50: number;
  p90: number;
  p95: number;
  p99: number;
}

export function spreadOf(values: readonly number[]): Spread {
  return {
    min: percentile(values, 0),
    max: percentile(values, 100),
    mean: mean(values),
    p50: percentile(values, 50),
    p90: percentile(values, 90),
    p95: percentile(values, 95),
    p99: percentile(values, 99),
  };
}
