/** Tables for people: columns padded to their widest cell, numbers to the right. */

export interface Column {
  title: string;
  right?: boolean;
}

/** Lines of a table with a head and a rule below it. Each row has one cell a column. */
export function formatTable(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const widths = columns.map((column, index) =>
    Math.max(column.title.length, ...rows.map((row) => (row[index] ?? "").length)),
  );
  const line = (cells: readonly string[]): string =>
    columns
      .map((column, index) => {
        const cell = cells[index] ?? "";
        const width = widths[index] ?? 0;
        return column.right === true ? cell.padStart(width) : cell.padEnd(width);
      })
      .join("  ")
      .trimEnd();
  const rule = widths.map((width) => "-".repeat(width)).join("  ");
  return `${[line(columns.map((column) => column.title)), rule, ...rows.map(line)].join("\n")}\n`;
}

/** "1,234,567". */
export function grouped(value: number | bigint): string {
  return value.toLocaleString("en-US");
}

/**
 * What --json prints: bigint as a JSON number where it is exact, else as a string; of messages their fields alone, and
 * nothing of the library that made them.
 */
export function toJson(value: unknown): string {
  const replace = (key: string, item: unknown): unknown => {
    if (key === "$typeName" || key === "$unknown") {
      return undefined;
    }
    if (typeof item !== "bigint") {
      return item;
    }
    return item <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(item) : item.toString();
  };
  return JSON.stringify(value, replace, 2);
}
