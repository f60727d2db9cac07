/**
 * Field offsets of the records that cross languages, from the sources: structs of native/queue/layout.h, classes of
 * asm/layout.ts. Both lay fields out one after the other, each aligned to its own size.
 */
export interface Field {
  offset: number;
  bytes: number;
}
export interface Struct {
  bytes: number;
  fields: Record<string, Field>;
}

const WIDTHS: Record<string, number> = { char: 1, uint16_t: 2, uint32_t: 4, uint64_t: 8, u32: 4, u64: 8 };

/** `struct Name { type field; type field[n]; };` with types of WIDTHS and of structs before it. Others are left out. */
export function structsOfHeader(text: string): Record<string, Struct> {
  const structs: Record<string, Struct> = {};
  for (const [, name = "", body = ""] of text.matchAll(/^struct (\w+) \{\n([\s\S]*?)\n\};/gm)) {
    const lines = [...body.matchAll(/^ {2}(\w+) (\w+)(?:\[(\d+)\])?;/gm)];
    const known = lines.every(([, type = ""]) => type in WIDTHS || type in structs);
    if (lines.length > 0 && known) {
      structs[name] = layOut(
        lines.map(([, type = "", field = "", count]) => ({ type, field, count: Number(count ?? 1) })),
        structs,
      );
    }
  }
  return structs;
}

/** `export class Name { field: u32; }`. */
export function classesOfAssembly(text: string): Record<string, Struct> {
  const classes: Record<string, Struct> = {};
  for (const [, name = "", body = ""] of text.matchAll(/^export class (\w+) \{\n([\s\S]*?)\n\}/gm)) {
    const lines = [...body.matchAll(/^ {2}(\w+): (\w+);/gm)];
    classes[name] = layOut(
      lines.map(([, field = "", type = ""]) => ({ type, field, count: 1 })),
      {},
    );
  }
  return classes;
}

function layOut(
  lines: readonly { type: string; field: string; count: number }[],
  structs: Readonly<Record<string, Struct>>,
): Struct {
  const fields: Record<string, Field> = {};
  let end = 0;
  let alignment = 1;
  for (const { type, field, count } of lines) {
    const width = WIDTHS[type] ?? structs[type]?.bytes ?? Number.NaN;
    const own = WIDTHS[type] ?? alignmentOf(structs[type] as Struct);
    const offset = Math.ceil(end / own) * own;
    fields[field] = { offset, bytes: width * count };
    end = offset + width * count;
    alignment = Math.max(alignment, own);
  }
  return { bytes: Math.ceil(end / alignment) * alignment, fields };
}

function alignmentOf(struct: Struct): number {
  return Object.values(struct.fields).some(({ offset, bytes }) => bytes === 8 && offset % 8 === 0) ? 8 : 4;
}

/** A record with these values at the fields' places, zeros elsewhere. Throws for a field that the record hasn't. */
export function build(struct: Struct | undefined, values: Readonly<Record<string, number | bigint>>): Uint8Array {
  const record = Buffer.alloc(struct?.bytes ?? 0);
  for (const [name, value] of Object.entries(values)) {
    const field = struct?.fields[name];
    if (field === undefined) {
      throw new Error(`there is no field ${name}`);
    }
    if (field.bytes === 8) {
      record.writeBigUInt64LE(BigInt(value), field.offset);
    } else {
      record.writeUIntLE(Number(value), field.offset, field.bytes);
    }
  }
  return new Uint8Array(record);
}

/** The values of a record's fields of up to 8 bytes. */
export function fieldsOf(struct: Struct | undefined, record: Uint8Array): Record<string, bigint> {
  const bytes = Buffer.from(record);
  const entries = Object.entries(struct?.fields ?? {}).filter(([, field]) => field.bytes <= 8);
  return Object.fromEntries(
    entries.map(([name, { offset, bytes: width }]) => [
      name,
      width === 8 ? bytes.readBigUInt64LE(offset) : BigInt(bytes.readUIntLE(offset, width)),
    ]),
  );
}
