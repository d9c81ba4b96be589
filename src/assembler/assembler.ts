// The notation: one method per instruction, so that a stub reads like the listing of one.
//
//   const a = assembler();
//   a.label("entry_SYSCALL_64").swapgs().mov(gs(SCRATCH_RSP), rsp).trap("do_syscall_64").sysretq();
//   const { bytes, symbols, traps } = assemble(a.program(), { origin: STUB_BASE });
import { branchNamed } from "./branches.ts";
import { encode } from "./encode.ts";
import { MNEMONICS, type Mnemonic, STRING_INSTRUCTIONS, type StringInstruction } from "./mnemonics.ts";
import type { Operand } from "./operands.ts";
import type { Item, Program } from "./program.ts";

type Instructions = { readonly [M in Mnemonic]: (...operands: Operand[]) => Assembler };
type Strings = { readonly [S in StringInstruction]: () => Assembler };

/** Builds a program; every method adds to its end and returns the assembler. */
export interface Assembler extends Instructions, Strings {
  /** Defines a label here. Names are unique within a program. */
  label(name: string): Assembler;
  /** Emits the trap instruction; `name` tells which TypeScript function runs at it. */
  trap(name: string): Assembler;
  /** The next string instruction is repeated RCX times (MOVS, STOS, LODS, INS, OUTS), or while equal (CMPS, SCAS). */
  rep(): Assembler;
  /** The next CMPS or SCAS is repeated while not equal. */
  repne(): Assembler;
  /** The next instruction is locked. */
  lock(): Assembler;
  /** Continues with a section: what it holds comes after the sections used before it, on a cache line of its own. */
  section(name: string): Assembler;
  /** Pads to a multiple of `bytes` (a power of two), with NOP unless `fill` says otherwise. */
  align(bytes: number, fill?: number): Assembler;
  db(...values: number[]): Assembler;
  dw(...values: number[]): Assembler;
  dd(...values: number[]): Assembler;
  /** 64-bit values; a string is the address of a label. */
  dq(...values: (number | bigint | string)[]): Assembler;
  /** NUL-terminated text. */
  asciz(text: string): Assembler;
  bytes(data: Uint8Array): Assembler;
  /** `count` bytes of `fill`. */
  space(count: number, fill?: number): Assembler;
  /** What was written so far. */
  program(): Program;
}

const LOCK = 0xf0;
const REPNE = 0xf2;
const REP = 0xf3;
const NOP = 0x90;

function littleEndian(value: number | bigint, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  let rest = BigInt.asUintN(8 * bytes, BigInt(value));
  for (let i = 0; i < bytes; i++) {
    out[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  return out;
}

function namesLabel(operand: Operand): boolean {
  return typeof operand === "string" || (typeof operand === "object" && operand.kind === "mem" && operand.label !== null);
}

/** For the length of an instruction: any label is taken to be at the instruction itself, which every displacement reaches. */
const ANYWHERE = (): number => 0;

function instruction(mnemonic: Mnemonic, operands: readonly Operand[]): Item {
  const [target] = operands;
  const branch = branchNamed(mnemonic);
  if (branch !== null && (typeof target === "string" || typeof target === "number")) return { kind: "branch", mnemonic, branch, target };
  const bytes = encode(mnemonic, operands, 0, ANYWHERE);
  if (operands.some(namesLabel)) return { kind: "instruction", mnemonic, operands, byteLength: bytes.length };
  return { kind: "bytes", bytes };
}

interface OpenSection {
  readonly name: string;
  readonly items: Item[];
}

/** The methods that are not instructions. The instructions are on its prototype, put there once: 300 closures per program cost 2 ms. */
class Writer {
  readonly #sections: OpenSection[] = [];
  #items: Item[] = [];

  constructor() {
    this.section("text");
  }

  append(item: Item): this {
    this.#items.push(item);
    return this;
  }

  bytes(data: Uint8Array): this {
    return this.append({ kind: "bytes", bytes: data.slice() });
  }

  label(name: string): this {
    return this.append({ kind: "label", name });
  }

  trap(name: string): this {
    return this.append({ kind: "trap", name });
  }

  rep(): this {
    return this.db(REP);
  }

  repne(): this {
    return this.db(REPNE);
  }

  lock(): this {
    return this.db(LOCK);
  }

  section(name: string): this {
    let found = this.#sections.find((s) => s.name === name);
    if (found === undefined) {
      found = { name, items: [] };
      this.#sections.push(found);
    }
    this.#items = found.items;
    return this;
  }

  align(alignment: number, fill = NOP): this {
    return this.append({ kind: "align", alignment, fill });
  }

  db(...values: number[]): this {
    return this.#numbers(values, 1);
  }

  dw(...values: number[]): this {
    return this.#numbers(values, 2);
  }

  dd(...values: number[]): this {
    return this.#numbers(values, 4);
  }

  dq(...values: (number | bigint | string)[]): this {
    for (const value of values) {
      if (typeof value === "string") this.append({ kind: "address", label: value, displacement: 0 });
      else this.bytes(littleEndian(value, 8));
    }
    return this;
  }

  asciz(text: string): this {
    return this.bytes(new TextEncoder().encode(`${text}\0`));
  }

  space(count: number, fill = 0): this {
    return this.bytes(new Uint8Array(count).fill(fill));
  }

  program(): Program {
    return { sections: this.#sections.map((s) => ({ name: s.name, items: [...s.items] })) };
  }

  #numbers(values: readonly number[], bytes: number): this {
    for (const value of values) this.bytes(littleEndian(value, bytes));
    return this;
  }
}

function addMethod(name: string, method: (this: Writer, ...operands: Operand[]) => Writer): void {
  Object.defineProperty(Writer.prototype, name, { value: method });
}

for (const mnemonic of MNEMONICS) {
  addMethod(mnemonic, function (...operands) {
    return this.append(instruction(mnemonic, operands));
  });
}
for (const [name, opcode] of Object.entries(STRING_INSTRUCTIONS)) {
  addMethod(name, function () {
    return this.db(...opcode);
  });
}

function hasAllInstructions(writer: object): writer is Assembler {
  return MNEMONICS.every((mnemonic) => mnemonic in writer) && Object.keys(STRING_INSTRUCTIONS).every((name) => name in writer);
}

/** @returns an empty assembler, writing into the section `text`. */
export function assembler(): Assembler {
  const writer = new Writer();
  if (!hasAllInstructions(writer)) throw new Error("an instruction of the assembler has no method");
  return writer;
}
