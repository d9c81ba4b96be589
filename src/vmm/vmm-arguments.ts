// What a monitor process is started with: the guest as bytes at PUPPET_ARGUMENTS, in its own memory, so that it depends on nothing else.
//
//   0 u64 guest memory in bytes | 8 u64 entry | 16 u32 number of segments | 20 u32 bytes of the command line
//   24 segments, 24 bytes each: u64 guest-physical address, u32 bytes in the file, u32 offset of them from here, u64 unused
//   then the command line, then the segments' bytes
import { PUPPET_ARGUMENTS, type PuppetView } from "../hardware/index.ts";
import type { GuestImage } from "./elf.ts";

const HEADER_BYTES = 24;
const SEGMENT_BYTES = 24;
/** The kernel puts a u32 of the length in front. */
const ARGUMENTS = PUPPET_ARGUMENTS + 4;

/** Longest command line: what fits below the monitor's page tables in guest memory. */
export const GUEST_COMMAND_LINE_MAX = 2047;

export interface VmmConfig {
  readonly image: GuestImage;
  readonly memoryBytes: number;
  readonly commandLine: string;
}

function putWord(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

/** The arguments of a monitor process. */
export function encodeVmmArguments(config: VmmConfig): Uint8Array {
  const { image, memoryBytes } = config;
  const line = new TextEncoder().encode(config.commandLine).slice(0, GUEST_COMMAND_LINE_MAX);
  const start = HEADER_BYTES + image.segments.length * SEGMENT_BYTES + line.length;
  const total = image.segments.reduce((sum, segment) => sum + segment.bytes.length, start);
  const out = new Uint8Array(total);
  const view = new DataView(out.buffer);
  putWord(view, 0, memoryBytes);
  putWord(view, 8, image.entry);
  view.setUint32(16, image.segments.length, true);
  view.setUint32(20, line.length, true);
  let data = start;
  for (const [i, segment] of image.segments.entries()) {
    const at = HEADER_BYTES + i * SEGMENT_BYTES;
    putWord(view, at, segment.address);
    view.setUint32(at + 8, segment.bytes.length, true);
    view.setUint32(at + 12, data, true);
    out.set(segment.bytes, data);
    data += segment.bytes.length;
  }
  out.set(line, HEADER_BYTES + image.segments.length * SEGMENT_BYTES);
  return out;
}

export interface LoadedSegment {
  readonly address: number;
  readonly bytes: number;
  /** Where its bytes are, for `readArguments`. */
  readonly offset: number;
}

export interface VmmArguments {
  readonly memoryBytes: number;
  readonly entry: number;
  readonly segments: readonly LoadedSegment[];
  readonly commandLine: Uint8Array;
}

/** Bytes of the arguments; they are present from the start. */
export function readArguments(view: PuppetView, offset: number, bytes: number): Uint8Array {
  const found = view.read(ARGUMENTS + offset, bytes);
  if (found === undefined) throw new RangeError(`the monitor's arguments end before ${offset + bytes} bytes`);
  return found;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Reads the head of the arguments; the segments' bytes are read when they are loaded. */
export function decodeVmmArguments(puppet: PuppetView): VmmArguments {
  const header = viewOf(readArguments(puppet, 0, HEADER_BYTES));
  const word = (view: DataView, at: number): number => view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
  const count = header.getUint32(16, true);
  const lineBytes = header.getUint32(20, true);
  const table = viewOf(readArguments(puppet, HEADER_BYTES, count * SEGMENT_BYTES));
  const segments = Array.from({ length: count }, (_, i) => ({
    address: word(table, i * SEGMENT_BYTES),
    bytes: table.getUint32(i * SEGMENT_BYTES + 8, true),
    offset: table.getUint32(i * SEGMENT_BYTES + 12, true),
  }));
  return {
    memoryBytes: word(header, 0),
    entry: word(header, 8),
    segments,
    commandLine: readArguments(puppet, HEADER_BYTES + count * SEGMENT_BYTES, lineBytes),
  };
}
