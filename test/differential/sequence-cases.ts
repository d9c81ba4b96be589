// Several instructions in a row: partial registers, flags from one instruction used by the next, stores read back at another size, and
// code that the core fuses or whose flags it does not compute. No sequence reads a flag that an earlier instruction left undefined.
import { Decoder, DecoderOptions, Instruction, RflagsBits } from "iced-x86";
import {
  assemble,
  assembler,
  CONDITIONS,
  encodeForm,
  GPR64,
  type Mem,
  mem,
  memIndexed,
  type Operand,
  type Reg,
  r15,
  rcx,
  type Slot,
} from "../../src/assembler/index.ts";
import { type Case, CODE_BASE, CODE_OFFSET, COMPARED_FLAGS, Flag, RBX, RDI, RegisterClass, RSI, RSP } from "./case.ts";
import type { Random } from "./random.ts";
import { randomClasses, randomImmediate, registerNumber, registersOf } from "./random-operands.ts";
import { formBits, SINGLE_FORMS, type SingleForm } from "./single-cases.ts";
import { undefinedFlags } from "./undefined-flags.ts";

const R15 = 15;
/** Registers that hold pointers (R15: a small index) and are never written, so that memory operands stay good all through. */
const POINTERS: readonly number[] = [RBX, RSI, RDI];
const RESERVED: ReadonlySet<number> = new Set([...POINTERS, RSP, R15]);

/** Faults, or what moves RSP or RBP away, or needs a state of its own: these have their cases alone. */
const NOT_IN_SEQUENCES =
  /^(Div|Idiv|Enter|Leave|Pop_rm|Push_rm|Cmpxchg8b|Cmpxchg16b|Pushfq|Cld|Std|Shld|Shrd|Bt[scr]?_rm.._r|Cl|Prefetch|.fence|Movbe)/;

const FORMS = SINGLE_FORMS.filter(({ form }) => !NOT_IN_SEQUENCES.test(form.name));

function freeRegister(random: Random, bits: number, mayBeReserved: boolean): Reg {
  const reg = random.pick(registersOf(bits));
  return RESERVED.has(registerNumber(reg)) && !mayBeReserved ? freeRegister(random, bits, false) : reg;
}

function sequenceMemory(random: Random, bits: number): Mem {
  const base = GPR64[random.pick(POINTERS)] ?? rcx;
  const displacement = random.below(64) - 32; // few addresses, so that loads meet stores
  const m = random.oneIn(3) ? memIndexed(base, r15, random.pick([1, 2, 4, 8] as const), displacement) : mem(base, displacement);
  return { ...m, bits };
}

function sequenceOperand(random: Random, slot: Slot, isFirst: boolean): Operand | null {
  switch (slot.kind) {
    case "r":
      return freeRegister(random, slot.bits, !isFirst);
    case "rm":
      return random.oneIn(3) ? sequenceMemory(random, slot.bits) : freeRegister(random, slot.bits, !isFirst);
    case "m":
      return sequenceMemory(random, slot.bits);
    case "imm":
      return randomImmediate(random, slot.bits);
    case "fixed":
      return registersOf(slot.bits).find((reg) => reg.name === slot.name) ?? null;
    case "one":
      return 1;
    default:
      return null;
  }
}

const FLAG_OF_BIT: readonly (readonly [number, number])[] = [
  [RflagsBits.CF, Flag.CF],
  [RflagsBits.PF, Flag.PF],
  [RflagsBits.AF, Flag.AF],
  [RflagsBits.ZF, Flag.ZF],
  [RflagsBits.SF, Flag.SF],
  [RflagsBits.OF, Flag.OF],
];

function flagsOf(bits: number): number {
  let flags = 0;
  for (const [bit, flag] of FLAG_OF_BIT) if (bits & bit) flags |= flag;
  return flags;
}

interface Piece {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly reads: number;
  readonly writes: number;
  readonly undefined: number;
}

const instruction = new Instruction();

/** What the instruction does to the flags: read and written by the decoder's tables, left undefined by ours. */
function pieceOf(single: SingleForm, operands: readonly Operand[], bytes: Uint8Array): Piece {
  const decoder = new Decoder(64, bytes, DecoderOptions.None);
  decoder.decodeOut(instruction);
  decoder.free();
  const { mnemonic, form } = single;
  const last = operands.at(-1);
  const count = typeof last === "number" ? last & 0xff : null;
  const isByCl = form.name.endsWith("_CL");
  return {
    name: form.name,
    bytes,
    reads: flagsOf(instruction.rflagsRead),
    writes: isByCl ? 0 : flagsOf(instruction.rflagsModified), // a count of zero writes none
    undefined: undefinedFlags(mnemonic, formBits(form), count),
  };
}

function tryPiece(random: Random): Piece | null {
  const single = random.pick(FORMS);
  const { form, mnemonic } = single;
  const operands: Operand[] = [];
  for (const [i, slot] of form.slots.entries()) {
    // XADD and XCHG write both operands.
    const operand = sequenceOperand(random, slot, i === 0 || /^(xadd|xchg)$/.test(mnemonic));
    if (operand === null) return null;
    operands.push(operand);
  }
  if (/^(ro|rc|sh|sa)/.test(mnemonic) && form.slots.at(-1)?.kind === "imm") operands[operands.length - 1] = random.below(66);
  if (mnemonic.startsWith("bt")) operands[operands.length - 1] = random.below(256);
  try {
    return pieceOf(
      single,
      operands,
      encodeForm(form, operands, 0, () => 0),
    );
  } catch {
    return null;
  }
}

/** A piece that reads no flag of `unknown`. */
function piece(random: Random, unknown: number): Piece {
  for (;;) {
    const found = tryPiece(random);
    if (found !== null && (found.reads & unknown) === 0) return found;
  }
}

function after(unknown: number, { writes, undefined: left }: Piece): number {
  // Flags that a shift does not define may also be the old ones (count zero): an unknown flag stays unknown unless it is written.
  return (unknown & ~writes) | left;
}

const CONDITION_FLAGS: readonly number[] = [
  Flag.OF,
  Flag.CF,
  Flag.ZF,
  Flag.CF | Flag.ZF,
  Flag.SF,
  Flag.PF,
  Flag.SF | Flag.OF,
  Flag.SF | Flag.OF | Flag.ZF,
];

/** One case of `length` instructions, a third of them under a condition. */
export function sequenceCase(random: Random, length: number, seed: number): Case {
  const classes = randomClasses(random);
  for (const n of POINTERS) classes[n] = random.oneIn(3) ? RegisterClass.pointer : RegisterClass.pointerOdd;
  classes[R15] = RegisterClass.small;
  const a = assembler();
  const names: string[] = [];
  let unknown = 0;
  for (let i = 0; i < length; i++) {
    const condition = random.below(16);
    const isConditional = random.oneIn(3) && ((CONDITION_FLAGS[condition >> 1] ?? 0) & unknown) === 0;
    const next = piece(random, unknown);
    if (isConditional) a[`j${CONDITIONS[condition] ?? "e"}`](`over${i}`);
    a.bytes(next.bytes).label(`over${i}`);
    names.push(isConditional ? `j${CONDITIONS[condition]}, ${next.name}` : next.name);
    unknown = isConditional ? unknown | after(unknown, next) : after(unknown, next);
  }
  const { bytes } = assemble(a.program(), { origin: CODE_BASE + CODE_OFFSET });
  return { name: names.join("; "), seed, code: bytes, codeOffset: CODE_OFFSET, classes, flagMask: COMPARED_FLAGS & ~unknown };
}

/** A loop of some instructions, run 2 to 9 times: what was translated once must be right each time. */
export function loopCase(random: Random, length: number, seed: number): Case {
  const classes = randomClasses(random);
  for (const n of POINTERS) classes[n] = RegisterClass.pointerOdd;
  classes[R15] = RegisterClass.small;
  const a = assembler();
  const names: string[] = [];
  // The counter lives on the stack, out of reach of the instructions in the loop; at its head no flag is known.
  a.push(2 + random.below(8)).label("again");
  let unknown: number = COMPARED_FLAGS;
  for (let i = 0; i < length; i++) {
    let next = piece(random, unknown);
    while (/^(Push|Pop)/.test(next.name)) next = piece(random, unknown);
    a.bytes(next.bytes);
    names.push(next.name);
    unknown = after(unknown, next);
  }
  a.dec({ ...mem(GPR64[RSP] ?? rcx), bits: 64 }).jnz("again");
  const { bytes } = assemble(a.program(), { origin: CODE_BASE + CODE_OFFSET });
  // DEC defines all flags but CF.
  return {
    name: `loop: ${names.join("; ")}`,
    seed,
    code: bytes,
    codeOffset: CODE_OFFSET,
    classes,
    flagMask: COMPARED_FLAGS & ~(unknown & Flag.CF),
  };
}
