// The op table against what uses it: each op is emitted by some encoding, the generated files are what the table says, and the
// executors stay small enough for V8's optimizing compiler.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import {
  BLOCK_BYTES,
  BLOCK_LIMIT,
  BLOCK_NEXT,
  CODE_16,
  CODE_32,
  CODE_REGION,
  CODE_SEGMENTED,
  CPU_FS_BASE,
  CPU_REGS,
  FRAME_BLOCKS_REGION,
  PHYSICAL_REGION,
  SHARED_CODE_TOP,
  UOP_OP,
} from "../core/layout.gen.ts";
import { effectsOf } from "./effects.ts";
import { printLayout } from "./expand-layout.ts";
import { CONDITIONS, FS_BASE } from "./ir.ts";
import { HOT_OPS, OPS } from "./op-table.ts";
import { Translator } from "./translate.ts";

const ROOT = new URL("../../../../", import.meta.url);
const PAGE_BYTES = 4096;
/** Emitted for control flow between blocks, not for an instruction; other tests execute them. */
const TRANSLATOR_OPS = ["check_next_page", "fetch_fault", "far_jump", "link_stub", "stale"];

/** Collects the ops of translations of code at the start of a page. */
class OpCollector {
  readonly seen = new Set<string>();
  private readonly view: DataView;
  private readonly bytes: Uint8Array;
  private readonly translator: Translator;

  constructor() {
    const buffer = new ArrayBuffer(PHYSICAL_REGION + 2 * PAGE_BYTES);
    this.view = new DataView(buffer);
    this.bytes = new Uint8Array(buffer);
    this.translator = new Translator({ view: this.view, bytes: this.bytes, physical: PHYSICAL_REGION, nextPage: () => -1 });
  }

  /** `mode`: CODE_* bits. */
  add(code: readonly number[], mode = 0): void {
    this.view.setUint32(SHARED_CODE_TOP, CODE_REGION, true);
    this.bytes.fill(0x90, PHYSICAL_REGION, PHYSICAL_REGION + 32);
    this.bytes.set(code, PHYSICAL_REGION);
    this.bytes[PHYSICAL_REGION + 32] = 0xc3;
    this.view.setUint32(FRAME_BLOCKS_REGION, 0, true);
    this.translator.translate(0, 0, mode);
    for (let block = this.view.getUint32(FRAME_BLOCKS_REGION, true); block !== 0; block = this.view.getUint32(block + BLOCK_NEXT, true)) {
      this.addBlock(block);
    }
  }

  private addBlock(block: number): void {
    const limit = this.view.getUint32(block + BLOCK_LIMIT, true);
    let pc = block + BLOCK_BYTES;
    while (pc < limit) {
      const op = OPS[this.view.getUint16(pc + UOP_OP, true)];
      assert.ok(op !== undefined, "a micro-op of the table");
      this.seen.add(op.name);
      pc += op.bytes;
    }
  }
}

const PREFIXES: readonly (readonly number[])[] = [[], [0x66], [0xf2], [0xf3], [0x48], [0x67], [0x66, 0xf3], [0xf3, 0x48], [0xf2, 0x48]];
/** Maps: one byte, 0F, 0F 38. */
const ESCAPES: readonly (readonly number[])[] = [[], [0x0f], [0x0f, 0x38]];
/** Immediates; as instructions behind a shorter one they use memory, so flags before them are live. */
const IMMEDIATE = [0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00];

/** Every opcode with every prefix, register and memory operands, every value of the reg field. */
function addAllEncodings(collector: OpCollector): void {
  for (const prefix of PREFIXES) {
    for (const map of ESCAPES) {
      for (let opcode = 0; opcode < 256; opcode++) {
        for (let reg = 0; reg < 8; reg++) {
          for (const mod of [0xc2, 0x02]) collector.add([...prefix, ...map, opcode, mod | (reg << 3), ...IMMEDIATE]);
        }
      }
    }
  }
}

/** Every opcode of compatibility mode. */
function addCompatEncodings(collector: OpCollector): void {
  for (const mode of [CODE_32, CODE_32 | CODE_SEGMENTED, CODE_16]) {
    for (const prefix of [[], [0x66], [0x67]]) {
      for (const map of [[], [0x0f]]) {
        for (let opcode = 0; opcode < 256; opcode++) {
          for (const modrm of [0xc2, 0x02, 0xea, 0x2a, 0xd2, 0x12, 0xe2, 0x22, 0xf2, 0x32])
            collector.add([...prefix, ...map, opcode, modrm, ...IMMEDIATE], mode);
        }
      }
    }
  }
}

const JCC = 0x70;

/** CMP TEST SUB ADD AND, register and immediate, in the three fused widths, before each conditional jump. */
function addFusedPairs(collector: OpCollector): void {
  const wide = [
    [0x39, 0xd8],
    [0x83, 0xf8, 0x05],
    [0x85, 0xd8],
    [0xf7, 0xc0, 0x05, 0, 0, 0],
    [0x29, 0xd8],
    [0x83, 0xe8, 0x05],
    [0x01, 0xd8],
    [0x83, 0xc0, 0x05],
    [0x21, 0xd8],
    [0x83, 0xe0, 0x05],
  ];
  const narrow = [
    [0x38, 0xd8],
    [0x3c, 0x05],
    [0x84, 0xd8],
    [0xa8, 0x05],
  ];
  for (const n of CONDITIONS.keys()) {
    for (const alu of wide) {
      collector.add([...alu, JCC + n, 0x10]);
      collector.add([0x48, ...alu, JCC + n, 0x10]);
    }
    for (const alu of narrow) collector.add([...alu, JCC + n, 0x10]);
  }
}

/** Instructions whose flags are set again at once: the forms without flags. */
function addDeadFlags(collector: OpCollector): void {
  const again = [0x31, 0xd2];
  for (const rex of [[], [0x48]]) {
    for (let n = 0; n < 8; n++) {
      collector.add([...rex, n << 3, 0xd8, ...again]);
      collector.add([...rex, (n << 3) | 1, 0xd8, ...again]);
      collector.add([...rex, 0x83, 0xc0 | (n << 3), 0x05, ...again]);
      collector.add([...rex, 0xc1, 0xc0 | (n << 3), 0x05, ...again]);
      collector.add([...rex, 0xd3, 0xc0 | (n << 3), ...again]);
      collector.add([...rex, 0xff, 0xc0 | (n << 3), ...again]);
    }
    collector.add([...rex, 0x0f, 0xaf, 0xd8, ...again]);
    collector.add([...rex, 0x6b, 0xd8, 0x05, ...again]);
  }
}

/** Encodings that the loops above do not reach: a 64-bit immediate, ENTER, and those with a ModRM byte of their own. */
function addOthers(collector: OpCollector): void {
  collector.add([0xc8, 0x10, 0x00, 0x00]);
  for (const modrm of [0xcb, 0xf8, 0xf9]) collector.add([0x0f, 0x01, modrm]);
  collector.add([0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8]);
  collector.add([0x0f, 0xff, 0xc0]);
  collector.add([]);
}

test("every op of the table is emitted by some encoding", () => {
  const collector = new OpCollector();
  addAllEncodings(collector);
  addFusedPairs(collector);
  addDeadFlags(collector);
  addOthers(collector);
  addCompatEncodings(collector);
  const missing = OPS.map((op) => op.name).filter((name) => !collector.seen.has(name) && !TRANSLATOR_OPS.includes(name));
  assert.deepEqual(missing, []);
});

test("cold ops never transfer control by links", () => {
  const wrong = OPS.slice(HOT_OPS).filter((op) => effectsOf(op).ends !== "next");
  assert.deepEqual(
    wrong.map((op) => op.name),
    [],
  );
});

test("an op writes registers and flags only after its last statement that can fault", () => {
  const faulting = new Set(["load", "loadForWrite", "store", "status", "raise"]);
  const writing = new Set(["setReg", "setFixed", "flags"]);
  const wrong = OPS.filter((op) => {
    const firstWrite = op.body.findIndex((stmt) => writing.has(stmt.s));
    return firstWrite >= 0 && op.body.slice(firstWrite).some((stmt) => faulting.has(stmt.s));
  });
  assert.deepEqual(
    wrong.map((op) => op.name),
    [],
  );
});

test("layout.gen.ts is what the layout table says", () => {
  const path = fileURLToPath(new URL("src/machine/core/layout.gen.ts", ROOT));
  assert.equal(readFileSync(path, "utf8"), printLayout());
});

test("register offsets of the IR are those of the layout", () => {
  assert.equal(CPU_FS_BASE - CPU_REGS, FS_BASE);
});

test("no function of either executor has 100 locals (V8 optimizes such a switch too slowly)", () => {
  for (const gear of ["architectural", "detailed"]) {
    const wasm = readFileSync(fileURLToPath(new URL(`dist/core/core-${gear}.wasm`, ROOT)));
    const most = Math.max(...localCounts(wasm));
    assert.ok(most < 100, `${gear}: ${most}`);
  }
});

const CODE_SECTION = 10;

/** Number of locals of each function of a WebAssembly module. */
function localCounts(wasm: Uint8Array): number[] {
  let at = 8;
  const number = (): number => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = wasm[at++] ?? 0;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value >>> 0;
    }
  };
  while (at < wasm.length) {
    const id = wasm[at++];
    const bytes = number();
    if (id !== CODE_SECTION) {
      at += bytes;
      continue;
    }
    return Array.from({ length: number() }, () => {
      const end = number() + at;
      let locals = 0;
      for (let groups = number(); groups > 0; groups--) {
        locals += number();
        at++;
      }
      at = end;
      return locals;
    });
  }
  return [];
}
