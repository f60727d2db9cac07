/** Bars and spans as SVG text, made by hand: no library, no script. Colours are CSS variables of the page. */

export interface Bar {
  label: string;
  /** A class of the page: what colour it has. */
  kind: string;
  /** Of the bar, or of the mark in a span. */
  value: number;
  /** A span from its start to its end, with a mark at `value`; without it a bar from 0. */
  span?: readonly [number, number];
  /** A line across, to compare with. */
  limit?: number;
  /** Written beside it; the value otherwise. */
  text?: string;
  /** Shown when one points at it. */
  title: string;
}

export interface BarGroup {
  label: string;
  bars: readonly Bar[];
}

export interface ChartOptions {
  title: string;
  unit: string;
  groups: readonly BarGroup[];
  /** From the smallest to the largest power of ten, instead of from 0. */
  logarithmic?: boolean;
}

const width = 960;
const labelWidth = 300;
const rightMargin = 70;
const barHeight = 13;
const groupGap = 12;
const headHeight = 34;

export function escapeText(text: string): string {
  return text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
}

/** Three significant digits, grouped: "1,230", "0.45". */
export function shortNumber(value: number): string {
  return Number(value.toPrecision(3)).toLocaleString("en-US", { maximumFractionDigits: 6 });
}

/** Where values are on the picture, and which are written at the axis. */
interface Axis {
  at: (value: number) => number;
  ticks: number[];
}

function allValues(groups: readonly BarGroup[]): number[] {
  const values = groups.flatMap((group) =>
    group.bars.flatMap((bar) => [bar.value, ...(bar.span ?? []), ...(bar.limit === undefined ? [] : [bar.limit])]),
  );
  return values.filter((value) => Number.isFinite(value) && value > 0);
}

function makeAxis(options: ChartOptions): Axis {
  const values = allValues(options.groups);
  const largest = Math.max(1e-9, ...values);
  const plotWidth = width - labelWidth - rightMargin;
  if (options.logarithmic === true) {
    const low = Math.floor(Math.log10(Math.min(largest, ...values)));
    const high = Math.max(low + 1, Math.ceil(Math.log10(largest)));
    const at = (value: number): number =>
      labelWidth + (plotWidth * (Math.log10(Math.max(value, 10 ** low)) - low)) / (high - low);
    return { at, ticks: Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index)) };
  }
  const rough = largest / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const top = Math.ceil(largest / step) * step;
  const count = Math.round(top / step);
  return {
    at: (value) => labelWidth + (plotWidth * value) / top,
    ticks: Array.from({ length: count + 1 }, (_, index) => index * step),
  };
}

function barSvg(bar: Bar, axis: Axis, y: number): string {
  const start = axis.at(bar.span?.[0] ?? 0);
  const end = axis.at(bar.span?.[1] ?? bar.value);
  const middle = y + barHeight / 2;
  const place = axis.at(bar.value);
  const parts = [
    `<rect class="${bar.kind}${bar.span === undefined ? "" : " span"}" x="${start.toFixed(1)}" y="${y}" ` +
      `width="${Math.max(1, end - start).toFixed(1)}" height="${barHeight - 2}"/>`,
  ];
  if (bar.span !== undefined) {
    parts.push(`<circle class="${bar.kind}" cx="${place.toFixed(1)}" cy="${middle - 1}" r="4.5"/>`);
  }
  if (bar.limit !== undefined) {
    const x = axis.at(bar.limit).toFixed(1);
    parts.push(`<line class="limit" x1="${x}" x2="${x}" y1="${y - 1}" y2="${y + barHeight - 1}"/>`);
  }
  const textAt = Math.max(end, place, bar.limit === undefined ? 0 : axis.at(bar.limit)) + 6;
  parts.push(
    `<text class="value" x="${textAt.toFixed(1)}" y="${y + 10}">${escapeText(bar.text ?? shortNumber(bar.value))}</text>`,
  );
  return `<g><title>${escapeText(bar.title)}</title>${parts.join("")}</g>`;
}

/** An <svg> element. */
export function barChart(options: ChartOptions): string {
  const axis = makeAxis(options);
  const parts: string[] = [];
  let y = headHeight;
  for (const group of options.groups) {
    const height = group.bars.length * barHeight;
    parts.push(
      `<text class="label" x="${labelWidth - 10}" y="${y + height / 2 + 4}">${escapeText(group.label)}</text>`,
    );
    for (const bar of group.bars) {
      parts.push(barSvg(bar, axis, y));
      y += barHeight;
    }
    y += groupGap;
  }
  const ticks = axis.ticks.map((tick) => {
    const x = axis.at(tick).toFixed(1);
    return (
      `<line class="tick" x1="${x}" x2="${x}" y1="${headHeight - 6}" y2="${y - groupGap + 4}"/>` +
      `<text class="axis" x="${x}" y="${headHeight - 10}">${shortNumber(tick)}</text>`
    );
  });
  const name = escapeText(`${options.title}, ${options.unit}`);
  return (
    `<svg viewBox="0 0 ${width} ${y}" role="img" aria-label="${name}">` +
    `<text class="unit" x="0" y="14">${escapeText(options.unit)}</text>${ticks.join("")}${parts.join("")}</svg>`
  );
}
