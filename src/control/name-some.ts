/** Names in a message: the first few, and how many others there are. A cluster may have a thousand members. */
const NAMED_MAX = 5;

export function nameSome(names: readonly string[]): string {
  const others = names.length > NAMED_MAX ? `, and ${names.length - NAMED_MAX} others` : "";
  return `${names.slice(0, NAMED_MAX).join(", ")}${others}`;
}
