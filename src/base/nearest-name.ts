/** The name that somebody meant who wrote another one. */

/** A name that has more than this share of other letters is none that was meant. */
const SHARE_MAX = 0.5;

/** Undefined: none is near. */
export function nearestName(wanted: string, names: readonly string[]): string | undefined {
  const shares = names.map((name) => {
    const [one, other] = [wanted.toLowerCase(), name.toLowerCase()];
    return editDistance(one, other) / Math.max(one.length, other.length);
  });
  const least = Math.min(...shares);
  return least <= SHARE_MAX ? names[shares.indexOf(least)] : undefined;
}

/** How many letters must be put in, taken out or changed. */
export function editDistance(source: string, target: string): number {
  let row = Array.from({ length: target.length + 1 }, (_, index) => index);
  for (let at = 1; at <= source.length; at += 1) {
    const next = [at];
    for (let to = 1; to <= target.length; to += 1) {
      const change = (row[to - 1] ?? 0) + (source[at - 1] === target[to - 1] ? 0 : 1);
      next.push(Math.min(change, (row[to] ?? 0) + 1, (next[to - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[target.length] ?? 0;
}
