// Which operands each instruction takes. The encoder names every form after its operands (Add_rm64_imm8), so the table of forms is
// read from those names once; there is no second list to keep true. Forms that do not exist in 64-bit mode are left out here.
import { Code } from "iced-x86";
import { encoderNames, type Mnemonic } from "./mnemonics.ts";
import type { Mem, Operand, Reg } from "./operands.ts";

/** One operand of a form. `rm` may be a register or memory, `m` is memory only; bits 0 is memory of any size. */
export type Slot =
  | { readonly kind: "r" | "rm" | "m" | "xmm" | "xmmm"; readonly bits: number }
  | { readonly kind: "r32m16"; readonly bits: 32 | 64 }
  | { readonly kind: "imm"; readonly bits: 8 | 16 | 32 | 64 }
  | { readonly kind: "rel"; readonly bits: 8 | 32 }
  | { readonly kind: "fixed"; readonly name: string; readonly bits: number }
  | { readonly kind: "one" }
  | { readonly kind: "segment" | "control" | "debug" };

export interface Form {
  readonly code: Code;
  readonly name: string;
  readonly slots: readonly Slot[];
}

const FIXED_BITS: Readonly<Record<string, number>> = { AL: 8, CL: 8, AX: 16, DX: 16, EAX: 32, RAX: 64 };

function slotOf(token: string): Slot | null {
  const sized = /^(r|rm|m|imm|xmmm)(8|16|32|64|128)$/.exec(token);
  if (sized !== null) {
    const bits = Number(sized[2]);
    switch (sized[1]) {
      case "r":
        return { kind: "r", bits };
      case "rm":
        return { kind: "rm", bits };
      case "m":
        return { kind: "m", bits };
      case "xmmm":
        return { kind: "xmmm", bits };
      default:
        return bits === 8 || bits === 16 || bits === 32 || bits === 64 ? { kind: "imm", bits } : null;
    }
  }
  switch (token) {
    case "m":
    case "m1664":
      return { kind: "m", bits: 0 };
    case "r32m16":
      return { kind: "r32m16", bits: 32 };
    case "r64m16":
      return { kind: "r32m16", bits: 64 };
    case "rel8":
      return { kind: "rel", bits: 8 };
    case "rel32":
      return { kind: "rel", bits: 32 };
    case "1":
      return { kind: "one" };
    case "Sreg":
      return { kind: "segment" };
    case "cr":
      return { kind: "control" };
    case "dr":
      return { kind: "debug" };
    case "xmm":
      return { kind: "xmm", bits: 128 };
    case "FS":
    case "GS":
      return { kind: "fixed", name: token.toLowerCase(), bits: 16 };
    default: {
      const bits = FIXED_BITS[token];
      return bits === undefined ? null : { kind: "fixed", name: token.toLowerCase(), bits };
    }
  }
}

/** Forms that 64-bit mode does not have, or that encode the same instruction a second, undocumented way. */
const NOT_IN_LONG_MODE =
  /^((Push|Pop|Call|Jmp)_(r32|rm32)|Push_imm16|(Call|Jmp)_rm16|(Call|Jmp)_m16\d\d|(Vmread|Vmwrite|Invept|Invvpid|Invpcid)_.*r32.*|Mov_(r32_[cd]r|[cd]r_r32)|(Inc|Dec)_r(16|32)|.*_(16|32)|.*_82)$/;

/** The form that the encoder calls `name`, or null if it is not one of 64-bit integer or SSE code. */
function formNamed(name: string, code: Code): Form | null {
  if (NOT_IN_LONG_MODE.test(name)) return null;
  const tokens = name.split("_").slice(1);
  const isBranch = tokens[0]?.startsWith("rel") ?? false;
  // What follows the displacement of a branch is the operand size, and the count register of a loop: only 64-bit ones are kept.
  if (isBranch && tokens.length > 2 && tokens[2] !== "RCX") return null;
  const slots: Slot[] = [];
  for (const token of isBranch ? tokens.slice(0, 1) : tokens) {
    const slot = slotOf(token);
    if (slot === null) return null;
    slots.push(slot);
  }
  return { code, name, slots };
}

interface NamedCode {
  readonly name: string;
  readonly code: Code;
}

let codes: Map<string, NamedCode[]> | null = null;
const cache = new Map<Mnemonic, readonly Form[]>();

/** The encoder's names under what stands before their first underscore. Nothing is parsed yet: a program uses few of the 4800. */
function codesByMnemonic(): Map<string, NamedCode[]> {
  const found = new Map<string, NamedCode[]>();
  for (const name in Code) {
    const code: unknown = Reflect.get(Code, name);
    if (typeof code !== "number") continue;
    const end = name.indexOf("_");
    const mnemonic = end < 0 ? name : name.slice(0, end);
    const list = found.get(mnemonic);
    if (list === undefined) found.set(mnemonic, [{ name, code }]);
    else list.push({ name, code });
  }
  return found;
}

/** All forms of `mnemonic`, in the encoder's order (for two registers: the form whose ModRM operand is the destination first). */
export function formsOf(mnemonic: Mnemonic): readonly Form[] {
  const known = cache.get(mnemonic);
  if (known !== undefined) return known;
  codes ??= codesByMnemonic();
  const named = codes;
  const forms = encoderNames(mnemonic)
    .flatMap((name) => named.get(name) ?? [])
    .map(({ name, code }) => formNamed(name, code))
    .filter((form) => form !== null);
  cache.set(mnemonic, forms);
  return forms;
}

/** Instructions whose 8-bit immediate is a count, a port or a number, not a sign-extended operand. */
const UNSIGNED_IMM8 = /^(Rol|Ror|Rcl|Rcr|Shl|Shr|Sar|Shld|Shrd|Bt|Bts|Btr|Btc|In|Out|Int|Enterq|Pshufd)_/;

function operandBits(form: Form): number {
  for (const slot of form.slots) {
    if ((slot.kind === "r" || slot.kind === "rm" || slot.kind === "fixed") && slot.bits !== 0) return slot.bits;
  }
  return 64; // push, ret: the stack's width
}

/** True if `value` can stand in the immediate `slot` of `form` without changing its meaning. */
function fits(form: Form, bits: 8 | 16 | 32 | 64, value: number | bigint): boolean {
  const wide = BigInt(value);
  const isSignExtended = bits < operandBits(form) && !(bits === 8 && UNSIGNED_IMM8.test(form.name));
  const low = -(1n << BigInt(bits - 1));
  const high = isSignExtended ? -low : 1n << BigInt(bits);
  return wide >= low && wide < high;
}

/** A memory operand without a stated size needs a register of that size beside it. */
function sizeIsKnown(form: Form, m: Mem, bits: number): boolean {
  if (m.bits !== 0) return m.bits === bits;
  if (/^(Call|Jmp|Push|Pop)_/.test(form.name)) return bits === 64;
  return form.slots.some((slot) => (slot.kind === "r" || slot.kind === "fixed") && slot.bits === bits && !/^(Movzx|Movsx)/.test(form.name));
}

function registerMatches(slot: Slot, reg: Reg): boolean {
  switch (slot.kind) {
    case "r":
    case "rm":
      return reg.class === "gpr" && reg.bits === slot.bits;
    case "r32m16":
      return reg.class === "gpr" && reg.bits === slot.bits;
    case "fixed":
      return reg.name === slot.name;
    case "segment":
      return reg.class === "segment";
    case "control":
      return reg.class === "control";
    case "debug":
      return reg.class === "debug";
    case "xmm":
    case "xmmm":
      return reg.class === "xmm";
    default:
      return false;
  }
}

function memoryMatches(form: Form, slot: Slot, m: Mem): boolean {
  switch (slot.kind) {
    case "rm":
      return sizeIsKnown(form, m, slot.bits);
    case "r32m16":
      return (m.bits === 0 || m.bits === 16) && slot.bits === 32;
    case "m":
      return slot.bits === 0 || m.bits === 0 || m.bits === slot.bits;
    case "xmmm":
      return m.bits === 0 || m.bits === slot.bits;
    default:
      return false;
  }
}

function slotMatches(form: Form, slot: Slot, operand: Operand): boolean {
  if (typeof operand === "string") return slot.kind === "rel" || (slot.kind === "imm" && slot.bits === 64);
  if (typeof operand === "number" || typeof operand === "bigint") {
    if (slot.kind === "one") return BigInt(operand) === 1n;
    return slot.kind === "imm" && fits(form, slot.bits, operand);
  }
  return operand.kind === "reg" ? registerMatches(slot, operand) : memoryMatches(form, slot, operand);
}

/** The forms of `mnemonic` that these operands fit. */
export function matchingForms(mnemonic: Mnemonic, operands: readonly Operand[]): readonly Form[] {
  return formsOf(mnemonic).filter(
    (form) =>
      form.slots.length === operands.length &&
      form.slots.every((slot, i) => {
        const operand = operands[i];
        return operand !== undefined && slotMatches(form, slot, operand);
      }),
  );
}
