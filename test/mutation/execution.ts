// Which code each test file executes, and how long it takes: by the counts that V8 keeps for every block, taken once and remembered.
// What has changed since is counted as executed, so that a remembered count can cost time but never hide a witness.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** For one emitted file: begin, end and 1 or 0 (executed or not) of each block, the outer before the inner. */
export interface BlockCounts {
  /** Of the file that was executed. */
  readonly hash: string;
  readonly blocks: readonly number[];
}

/** What one test file executes. */
export interface Execution {
  readonly milliseconds: number;
  /** Of the test file itself. */
  readonly hash: string;
  /** The test file passes on the source as it is. */
  readonly passes: boolean;
  /** By file below dist/. */
  readonly files: Readonly<Record<string, BlockCounts>>;
}

interface ScriptCoverage {
  readonly url: string;
  readonly functions: readonly { readonly ranges: readonly { startOffset: number; endOffset: number; count: number }[] }[];
}

export function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

/** Reads what V8 wrote to `folder`, of every process of a test file; `wanted`: which files below `dist`. */
export function readCounts(folder: string, dist: string, wanted: (file: string) => boolean): Readonly<Record<string, BlockCounts>> {
  const found = new Map<string, number[]>();
  for (const name of readdirSync(folder)) {
    if (!name.endsWith(".json")) continue;
    const { result } = JSON.parse(readFileSync(join(folder, name), "utf8")) as { readonly result: readonly ScriptCoverage[] }; // V8's format
    for (const script of result) {
      const file = /\/dist\/(src\/.*\.js)$/.exec(script.url)?.[1];
      if (file === undefined || !wanted(file)) continue;
      const blocks = script.functions.flatMap(({ ranges }) => ranges.flatMap((r) => [r.startOffset, r.endOffset, r.count > 0 ? 1 : 0]));
      const before = found.get(file);
      found.set(file, before === undefined ? blocks : [...before, -1, -1, -1, ...blocks]);
    }
  }
  const hashed = [...found].map(([file, blocks]) => [file, { hash: hashOf(readFileSync(join(dist, file), "utf8")), blocks }] as const);
  return Object.fromEntries(hashed);
}

/** Whether the code at `offset` is executed, in any of the processes that were counted. */
export function isExecuted({ blocks }: BlockCounts, offset: number): boolean {
  let smallest = Number.POSITIVE_INFINITY;
  let executed = false;
  for (let i = 0; i < blocks.length; i += 3) {
    const begin = blocks[i] ?? 0;
    const end = blocks[i + 1] ?? 0;
    if (begin < 0) {
      // Another process: the innermost block of this one decides for itself.
      if (executed) return true;
      smallest = Number.POSITIVE_INFINITY;
      continue;
    }
    if (offset < begin || offset >= end || end - begin > smallest) continue;
    smallest = end - begin;
    executed = blocks[i + 2] === 1;
  }
  return executed;
}

/** A source map's way from places in the source to offsets in what was emitted. */
export class EmittedOffsets {
  /** Line and column in the source, offset in the output: sorted. */
  private readonly places: readonly (readonly [number, number, number])[];

  constructor(map: string, emitted: string) {
    const { mappings } = JSON.parse(map) as { readonly mappings: string }; // the format of source maps
    const places: [number, number, number][] = [];
    const lineStarts = [0];
    for (let i = 0; i < emitted.length; i++) if (emitted[i] === "\n") lineStarts.push(i + 1);
    let [line, column] = [0, 0];
    mappings.split(";").forEach((segments, outputLine) => {
      let outputColumn = 0;
      for (const segment of segments.split(",")) {
        const fields = decodeNumbers(segment);
        if (fields.length < 4) continue;
        outputColumn += fields[0] ?? 0;
        line += fields[2] ?? 0;
        column += fields[3] ?? 0;
        places.push([line, column, (lineStarts[outputLine] ?? 0) + outputColumn]);
      }
    });
    this.places = places.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2]);
  }

  /** Where the source's line and column (from 0) begin in the output: the place itself, or the nearest before it on its line. */
  offsetOf(line: number, column: number): number | undefined {
    let best: number | undefined;
    for (const [atLine, atColumn, offset] of this.places) {
      if (atLine > line) break;
      if (atLine === line && (atColumn <= column || best === undefined)) best = offset;
    }
    return best;
  }
}

const BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** Variable-length numbers of source maps: five bits a digit, the sign in the lowest bit. */
function decodeNumbers(segment: string): readonly number[] {
  const numbers: number[] = [];
  let [value, shift] = [0, 0];
  for (const digit of segment) {
    const bits = BASE64.indexOf(digit);
    value += (bits & 31) << shift;
    shift += 5;
    if ((bits & 32) !== 0) continue;
    numbers.push((value & 1) !== 0 ? -(value >> 1) : value >> 1);
    [value, shift] = [0, 0];
  }
  return numbers;
}
