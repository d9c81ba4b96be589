// One instruction at a time: every form of every user-mode integer instruction, with random operands. Form means encoding: `add` has 14.
import { CONDITIONS, encodeForm, type Form, formsOf, type Mnemonic, type Operand } from "../../src/assembler/index.ts";
import {
  type Case,
  CODE_BASE,
  CODE_OFFSET,
  COMPARED_FLAGS,
  HOT_MIDDLE,
  newState,
  RBP,
  RCX,
  RDX,
  RegisterClass,
  RSP,
  startState,
} from "./case.ts";
import type { Random } from "./random.ts";
import { randomClasses, randomOperand, registerNumber } from "./random-operands.ts";
import { isUndefinedDoubleShift, undefinedFlags } from "./undefined-flags.ts";

const ALU: readonly Mnemonic[] = ["add", "or", "adc", "sbb", "and", "sub", "xor", "cmp", "test", "inc", "dec", "neg", "not"];
const SHIFTS: readonly Mnemonic[] = ["rol", "ror", "rcl", "rcr", "shl", "shr", "sar", "shld", "shrd"];
const MULDIV: readonly Mnemonic[] = ["mul", "imul", "div", "idiv", "cbw", "cwde", "cdqe", "cwd", "cdq", "cqo"];
const BITS: readonly Mnemonic[] = ["bt", "bts", "btr", "btc", "bsf", "bsr", "popcnt", "tzcnt", "lzcnt", "bswap"];
const MOVES: readonly Mnemonic[] = [
  ...(["mov", "movzx", "movsx", "movsxd", "lea", "xchg", "xadd", "cmpxchg", "cmpxchg8b", "cmpxchg16b", "movnti", "movbe"] as const),
];
const STACK: readonly Mnemonic[] = ["push", "pop", "pushfq", "enter", "leave"];
const FLAGS: readonly Mnemonic[] = ["clc", "stc", "cmc", "cld", "std", "lahf", "sahf"];
const OTHER: readonly Mnemonic[] = [
  "nop",
  "pause",
  "endbr64",
  "lfence",
  "mfence",
  "sfence",
  "clflush",
  "clflushopt",
  "prefetcht0",
  "prefetchw",
];

export const SINGLE_MNEMONICS: readonly Mnemonic[] = [
  ...ALU,
  ...SHIFTS,
  ...MULDIV,
  ...BITS,
  ...MOVES,
  ...STACK,
  ...FLAGS,
  ...OTHER,
  ...CONDITIONS.flatMap((c): Mnemonic[] => [`set${c}`, `cmov${c}`]),
];

/** Forms whose result the manuals leave undefined, or that only repeat another: BSWAP of 16 bits; NOP's own registers. */
const LEFT_OUT = /^(Bswap_r16|Movsxd_r16_rm16|Pushq_FS|Pushq_GS|Popq_FS|Popq_GS|.*Sreg.*|.*_[cd]r.*|.*moffs.*)$/;

export interface SingleForm {
  readonly mnemonic: Mnemonic;
  readonly form: Form;
}

export const SINGLE_FORMS: readonly SingleForm[] = SINGLE_MNEMONICS.flatMap((mnemonic) =>
  formsOf(mnemonic)
    .filter((form) => !LEFT_OUT.test(form.name))
    .map((form) => ({ mnemonic, form })),
);

const LOCKABLE: ReadonlySet<string> = new Set(
  "add or adc sbb and sub xor inc dec neg not bts btr btc xadd cmpxchg cmpxchg8b cmpxchg16b xchg".split(" "),
);

function isShift(mnemonic: Mnemonic): boolean {
  return SHIFTS.includes(mnemonic);
}

/** Operand size of the form: that of its first register or memory operand. */
export function formBits(form: Form): number {
  for (const slot of form.slots) {
    if (slot.kind === "r" || slot.kind === "rm" || (slot.kind === "fixed" && slot.name !== "cl")) return slot.bits;
  }
  return 64;
}

/** Makes some of the interesting inputs likely: counts, bit offsets, dividends that do not overflow. */
function tuneClasses(random: Random, { mnemonic }: SingleForm, operands: readonly Operand[], classes: Uint8Array): void {
  const usesMemory = operands.some((o) => typeof o === "object" && o.kind === "mem");
  if (isShift(mnemonic) && (classes[RCX] ?? 0) < RegisterClass.pointer) classes[RCX] = RegisterClass.count;
  if ((mnemonic === "div" || mnemonic === "idiv") && !usesMemory && !random.oneIn(4)) {
    classes[RDX] = random.oneIn(2) ? RegisterClass.small : RegisterClass.edge;
  }
  if (mnemonic === "leave" && !random.oneIn(8)) classes[RBP] = RegisterClass.pointerOdd;
  const offset = operands[1];
  if (mnemonic.startsWith("bt") && usesMemory && typeof offset === "object" && offset.kind === "reg") {
    const n = registerNumber(offset);
    // As a pointer it would be an offset far outside: the access faults, which is right too, but not every time.
    if (n !== RSP) classes[n] = RegisterClass.bitOffset;
  }
}

function describe(form: Form, operands: readonly Operand[]): string {
  const parts = operands.map((o) => (typeof o === "object" ? (o.kind === "reg" ? o.name : "mem") : String(o)));
  return `${form.name} ${parts.join(", ")}`.trim();
}

function countOf(mnemonic: Mnemonic, form: Form, operands: readonly Operand[], cl: number): number | null {
  if (!isShift(mnemonic)) return null;
  const last = operands.at(-1);
  const slot = form.slots.at(-1);
  if (slot?.kind === "fixed" && slot.name === "cl") return cl;
  return Number(last) & 0xff;
}

const scratch = newState();

/** A case of this form, or null if what was chosen cannot be encoded or is undefined: the caller tries again. */
export function singleCase(random: Random, single: SingleForm, seed: number): Case | null {
  const { mnemonic, form } = single;
  const classes = randomClasses(random);
  const operands: Operand[] = [];
  for (const slot of form.slots) {
    const operand = randomOperand(random, slot, classes);
    if (operand === null) return null;
    operands.push(operand);
  }
  tuneOperands(random, form, operands);
  tuneClasses(random, single, operands, classes);
  if (isShift(mnemonic) && typeof operands.at(-1) === "number" && form.slots.at(-1)?.kind === "imm") {
    operands[operands.length - 1] = random.below(random.oneIn(3) ? 256 : 66);
  }
  if (mnemonic.startsWith("bt") && form.slots.at(-1)?.kind === "imm") operands[operands.length - 1] = random.below(256);
  const code = encodeAt(random, single, operands);
  if (code === null) return null;
  startState(seed, classes, scratch);
  const count = countOf(mnemonic, form, operands, (scratch.registers[2 * RCX] ?? 0) & 0xff);
  const bits = formBits(form);
  if (count !== null && isUndefinedDoubleShift(mnemonic, bits, count)) return null;
  const flagMask = COMPARED_FLAGS & ~undefinedFlags(mnemonic, bits, count);
  return { name: describe(form, operands), seed, code: code.bytes, codeOffset: code.offset, classes, flagMask };
}

/** ENTER: a frame that stays within the stack's page. */
function tuneOperands(random: Random, form: Form, operands: Operand[]): void {
  if (form.name.startsWith("Enter")) {
    operands[0] = random.below(256);
    operands[1] = random.oneIn(2) ? 0 : random.below(34);
  }
}

interface Placed {
  readonly bytes: Uint8Array;
  readonly offset: number;
}

const PAGE_BYTES = 0x1000;

function encodeAt(random: Random, { mnemonic, form }: SingleForm, operands: readonly Operand[]): Placed | null {
  // Once in 16 times the instruction lies across the two code pages.
  const offset = random.oneIn(16) ? PAGE_BYTES - 1 - random.below(6) : CODE_OFFSET;
  const hasMemory = operands.some((o) => typeof o === "object" && o.kind === "mem");
  const isDestinationMemory = typeof operands[0] === "object" && operands[0].kind === "mem";
  const isLocked = hasMemory && isDestinationMemory && LOCKABLE.has(mnemonic) && random.oneIn(4);
  const ip = CODE_BASE + offset + (isLocked ? 1 : 0);
  try {
    const bytes = encodeForm(form, operands, ip, () => HOT_MIDDLE);
    return { offset, bytes: isLocked ? Uint8Array.of(0xf0, ...bytes) : bytes };
  } catch {
    return null; // AH beside a REX prefix, an immediate that this form does not take: another draw will do
  }
}
