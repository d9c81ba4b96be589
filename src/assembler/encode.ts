// One instruction to bytes, through the iced-x86 encoder. An Instruction object lives in the encoder's WebAssembly heap and leaks
// unless it is freed, so none leaves this file; 64-bit immediates are bigint here and nowhere else.
import { Encoder, Instruction, MemoryOperand, Register } from "iced-x86";
import { type Form, matchingForms } from "./forms.ts";
import type { Mnemonic } from "./mnemonics.ts";
import type { Mem, Operand } from "./operands.ts";

/** A program that cannot be assembled: the message names the instruction or label. */
export class AssemblyError extends Error {
  override readonly name = "AssemblyError";
}

/** Address of a label, sign-extended. */
export type Resolve = (label: string) => number;

/** An operand that a creator of the encoder takes: a register, memory, or an immediate. */
type Value = { kind: "r"; register: Register } | { kind: "m"; memory: Mem } | { kind: "i"; value: bigint };

let encoder: Encoder | null = null;

function text(operand: Operand): string {
  if (typeof operand === "object") return operand.kind === "reg" ? operand.name : `mem${operand.bits === 0 ? "" : operand.bits}`;
  return String(operand);
}

export function describe(mnemonic: string, operands: readonly Operand[]): string {
  return `${mnemonic} ${operands.map(text).join(", ")}`.trim();
}

function memoryOperand(m: Mem, resolve: Resolve): MemoryOperand {
  const segment = m.segment?.register ?? Register.None;
  if (m.label !== null) {
    const target = BigInt.asUintN(64, BigInt(resolve(m.label) + m.displacement));
    return new MemoryOperand(Register.RIP, Register.None, 1, target, 8, false, segment);
  }
  const base = m.base?.register ?? Register.None;
  const index = m.index?.register ?? Register.None;
  const isAbsolute = m.base === null && m.index === null;
  const size = isAbsolute || m.base === null ? 8 : m.displacement === 0 ? 0 : 1;
  return new MemoryOperand(base, index, m.scale, BigInt(m.displacement), size, false, segment);
}

function values(form: Form, operands: readonly Operand[], resolve: Resolve): Value[] {
  return operands.map((operand, i): Value => {
    if (typeof operand === "string") return { kind: "i", value: BigInt(resolve(operand)) };
    if (typeof operand === "number" || typeof operand === "bigint") return { kind: "i", value: immediate(form, i, BigInt(operand)) };
    return operand.kind === "reg" ? { kind: "r", register: operand.register } : { kind: "m", memory: operand };
  });
}

/** The same bits as the signed value that the encoder's range check expects. */
function immediate(form: Form, index: number, value: bigint): bigint {
  const slot = form.slots[index];
  return slot?.kind === "imm" && slot.bits > 8 ? BigInt.asIntN(slot.bits, value) : value;
}

function create(form: Form, list: readonly Value[], resolve: Resolve): Instruction {
  const [a, b, c] = list;
  const code = form.code;
  const imm = (v: { value: bigint }): number => Number(v.value);
  const memory = (v: { memory: Mem }): MemoryOperand => memoryOperand(v.memory, resolve);
  if (a === undefined) return Instruction.create(code);
  if (b === undefined) {
    if (a.kind === "r") return Instruction.createReg(code, a.register);
    return a.kind === "m" ? Instruction.createMem(code, memory(a)) : Instruction.createI32(code, imm(a));
  }
  if (c === undefined) {
    if (a.kind === "r" && b.kind === "r") return Instruction.createRegReg(code, a.register, b.register);
    if (a.kind === "r" && b.kind === "m") return Instruction.createRegMem(code, a.register, memory(b));
    if (a.kind === "m" && b.kind === "r") return Instruction.createMemReg(code, memory(a), b.register);
    if (a.kind === "m" && b.kind === "i") return Instruction.createMemI32(code, memory(a), imm(b));
    if (a.kind === "i" && b.kind === "r") return Instruction.createI32Reg(code, imm(a), b.register);
    if (a.kind === "i" && b.kind === "i") return Instruction.createI32I32(code, imm(a), imm(b));
    if (a.kind === "r" && b.kind === "i") {
      if (form.slots[1]?.kind === "imm" && form.slots[1].bits === 64) return Instruction.createRegI64(code, a.register, b.value);
      return Instruction.createRegI32(code, a.register, imm(b));
    }
  } else {
    if (a.kind === "r" && b.kind === "r" && c.kind === "i") return Instruction.createRegRegI32(code, a.register, b.register, imm(c));
    if (a.kind === "r" && b.kind === "m" && c.kind === "i") return Instruction.createRegMemI32(code, a.register, memory(b), imm(c));
    if (a.kind === "m" && b.kind === "r" && c.kind === "i") return Instruction.createMemRegI32(code, memory(a), b.register, imm(c));
    if (a.kind === "m" && b.kind === "r" && c.kind === "r") return Instruction.createMemRegReg(code, memory(a), b.register, c.register);
    if (a.kind === "r" && b.kind === "r" && c.kind === "r") return Instruction.createRegRegReg(code, a.register, b.register, c.register);
  }
  throw new AssemblyError(`no creator for ${form.name}`);
}

/** Encodes one form, for callers that want every form and not the shortest. @throws if the operands are not the form's. */
export function encodeForm(form: Form, operands: readonly Operand[], ip: number, resolve: Resolve): Uint8Array {
  encoder ??= new Encoder(64);
  const instruction = create(form, values(form, operands, resolve), resolve);
  try {
    encoder.encode(instruction, BigInt.asUintN(64, BigInt(ip)));
    return encoder.takeBuffer();
  } catch (error) {
    encoder.takeBuffer(); // an encoding that fails half way leaves its first bytes behind
    throw error;
  } finally {
    instruction.free();
  }
}

/**
 * Encodes `mnemonic operands` for address `ip`, the shortest way; of equally short ones the first in the encoder's order.
 * Not for branches to labels: program.ts chooses their length.
 */
export function encode(mnemonic: Mnemonic, operands: readonly Operand[], ip: number, resolve: Resolve): Uint8Array {
  let best: Uint8Array | null = null;
  for (const form of matchingForms(mnemonic, operands)) {
    const bytes = tryEncode(form, mnemonic, operands, ip, resolve);
    if (best === null || bytes.length < best.length) best = bytes;
  }
  if (best !== null) return best;
  throw new AssemblyError(
    `no form of the instruction takes these operands (is the size of memory stated?): ${describe(mnemonic, operands)}`,
  );
}

function tryEncode(form: Form, mnemonic: Mnemonic, operands: readonly Operand[], ip: number, resolve: Resolve): Uint8Array {
  try {
    return encodeForm(form, operands, ip, resolve);
  } catch (error) {
    throw new AssemblyError(`${describe(mnemonic, operands)}: ${error instanceof Error ? error.message : String(error)}`);
  }
}
