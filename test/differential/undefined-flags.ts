// Which flags an instruction leaves undefined, by name. Only these are not compared. Source: SDM volume 2, "Flags Affected" of each
// instruction, and volume 1, appendix A; the AMD manual (volume 3) agrees on every entry but BSF/BSR, where it defines no more flags.
import { Flag } from "./case.ts";

const { CF, PF, AF, ZF, SF, OF } = Flag;

const ALWAYS: Readonly<Record<string, number>> = {
  and: AF,
  or: AF,
  xor: AF,
  test: AF,
  mul: SF | ZF | AF | PF,
  imul: SF | ZF | AF | PF,
  div: CF | OF | SF | ZF | AF | PF,
  idiv: CF | OF | SF | ZF | AF | PF,
  bt: OF | SF | AF | PF,
  bts: OF | SF | AF | PF,
  btr: OF | SF | AF | PF,
  btc: OF | SF | AF | PF,
  bsf: CF | OF | SF | AF | PF,
  bsr: CF | OF | SF | AF | PF,
  tzcnt: OF | SF | AF | PF,
  lzcnt: OF | SF | AF | PF,
};

const SHIFTS: ReadonlySet<string> = new Set(["shl", "shr", "sar", "shld", "shrd"]);
const ROTATES: ReadonlySet<string> = new Set(["rol", "ror", "rcl", "rcr"]);

/**
 * @param bits operand size
 * @param count of a shift or rotate, as given (not masked); null if it is not known
 */
export function undefinedFlags(mnemonic: string, bits: number, count: number | null): number {
  const isShift = SHIFTS.has(mnemonic);
  if (!isShift && !ROTATES.has(mnemonic)) return ALWAYS[mnemonic] ?? 0;
  // A count of zero changes no flag; OF is defined for a count of one; AF by no shift; CF of SHL and SHR up to the operand's size.
  const masked = count === null ? null : count & (bits === 64 ? 63 : 31);
  if (masked === 0) return 0;
  let undefinedBits = masked === 1 ? 0 : OF;
  if (isShift) undefinedBits |= AF;
  if ((mnemonic === "shl" || mnemonic === "shr") && (masked === null ? bits < 32 : masked >= bits)) undefinedBits |= CF;
  return undefinedBits;
}

/** SHLD and SHRD by more than the operand's size leave the destination undefined too: such cases are not made. */
export function isUndefinedDoubleShift(mnemonic: string, bits: number, count: number): boolean {
  return (mnemonic === "shld" || mnemonic === "shrd") && (count & (bits === 64 ? 63 : 31)) > bits;
}
