// Shifts and rotates. SDM vol. 2: SHL SHR SAR ROL ROR RCL RCR SHLD SHRD. Counts are masked to 5 bits (6 for 64-bit operands); an
// immediate count reaches the op already masked and not zero. OF is defined for counts of 1 only: for others it follows the same formula.
import type { Expr, Op, Stmt, Width } from "../ir.ts";
import {
  add,
  address,
  and,
  bin,
  bool,
  call,
  compare,
  fixedUnsigned,
  flag,
  flagBits,
  imm,
  let_,
  loadForWrite,
  num,
  or,
  RCX,
  reg,
  regUnsigned,
  setReg,
  sext,
  storeBack,
  sub,
  temp,
  WIDTHS,
  xor,
} from "../ir.ts";

export const SHIFT_NAMES = ["rol", "ror", "rcl", "rcr", "shl", "shr", "sar"] as const;
export type ShiftName = (typeof SHIFT_NAMES)[number];
/** r or m, by immediate or by CL. */
export const SHIFT_FORMS = ["ri", "rc", "mi", "mc"] as const;
export type ShiftForm = (typeof SHIFT_FORMS)[number];

const CF_AND_OF = 0x801;

/** r and c (the carry, 0 or 1) from a (zero-extended, but sign-extended for SAR) and the count in b. */
function compute(name: ShiftName, width: Width): Stmt[] {
  const a = temp("a");
  const n = temp("b");
  const size = num(width);
  switch (name) {
    case "shl":
      if (width === 64) return [let_("r", bin("shl", a, n)), let_("c", and(bin("shr", a, sub(size, n)), num(1)))];
      return [let_("x", bin("shl", a, n)), let_("r", sext(width, temp("x"))), let_("c", and(bin("shr", temp("x"), size), num(1)))];
    case "shr":
      return [let_("r", sext(width, bin("shr", a, n))), let_("c", and(bin("shr", a, sub(n, num(1))), num(1)))];
    case "sar":
      return [let_("r", bin("sar", a, n)), let_("c", and(bin("sar", a, sub(n, num(1))), num(1)))];
    case "rol":
      return [let_("r", sext(width, rotated("rotl", width, a, n))), let_("c", and(temp("r"), num(1)))];
    case "ror":
      return [let_("r", sext(width, rotated("rotr", width, a, n))), let_("c", and(bin("shr", temp("r"), num(width - 1)), num(1)))];
    case "rcl":
    case "rcr": {
      const carry = bool(flag("b"));
      return [
        let_("x", carry),
        let_("r", sext(width, call(`${name}Result`, size, a, n, temp("x")))),
        let_("c", call(`${name}Carry`, size, a, n, temp("x"))),
      ];
    }
  }
}

function rotated(op: "rotl" | "rotr", width: Width, a: Expr, n: Expr): Expr {
  if (width === 64) return bin(op, a, n);
  const count = and(n, num(width - 1));
  const back = and(sub(num(width), count), num(width - 1));
  const left = op === "rotl" ? count : back;
  const right = op === "rotl" ? back : count;
  return or(bin("shl", a, left), bin("shr", a, right));
}

function flags(name: ShiftName, width: Width): Stmt {
  const r = temp("r");
  const c = temp("c");
  const signOfResult = bin("shl", r, num(0));
  switch (name) {
    case "shl":
      return { s: "flags", kind: "explicit", a: c, b: xor(signOfResult, bin("shl", c, num(63))), r };
    case "shr":
      return { s: "flags", kind: "explicit", a: c, b: bin("shl", temp("a"), num(64 - width)), r };
    case "sar":
      return { s: "flags", kind: "explicit", a: c, b: num(0), r };
    case "rol":
    case "rcl":
      return rotateFlags(xor(and(bin("shr", r, num(63)), num(1)), c));
    case "ror":
    case "rcr":
      return rotateFlags(and(bin("shr", xor(r, bin("shl", r, num(1))), num(width - 1)), num(1)));
  }
}

/** Rotates change CF and OF alone. */
function rotateFlags(overflow: Expr): Stmt {
  return { s: "flags", kind: "raw", a: or(or(and(flagBits, num(~CF_AND_OF)), temp("c")), bin("shl", overflow, num(11))) };
}

function shiftOp(name: ShiftName, width: Width, form: ShiftForm, withFlags: boolean): Op {
  const body: Stmt[] = [];
  const unsigned = name !== "sar";
  const byCl = form === "rc" || form === "mc";
  const toMemory = form === "mi" || form === "mc";
  if (toMemory) body.push(loadForWrite("a", width, address, unsigned));
  else body.push(let_("a", unsigned ? regUnsigned("dst", width) : reg("dst", width)));
  body.push(let_("b", byCl ? and(fixedUnsigned(RCX, 8), num(width === 64 ? 63 : 31)) : imm));
  body.push(...compute(name, width));
  body.push(toMemory ? storeBack(width, temp("r")) : setReg("dst", width, temp("r")));
  if (withFlags) {
    const set = flags(name, width);
    // By CL, a count of zero leaves the flags.
    body.push(byCl ? { s: "if", when: compare("ne", temp("b"), num(0)), body: [set] } : set);
  }
  const rotatesThroughCarry = name === "rcl" || name === "rcr";
  const cold = width < 32 || toMemory || rotatesThroughCarry;
  return { name: `${name}${width}_${form}${withFlags ? "" : "_nf"}`, cold, bytes: 16, latency: "shift", body };
}

/** SHLD and SHRD: dst (or memory) gets bits of src. 16-bit counts above 16 are undefined; the helper then returns the operand. */
function doubleShift(name: "shld" | "shrd", width: Width, form: ShiftForm): Op {
  const byCl = form === "rc" || form === "mc";
  const toMemory = form === "mi" || form === "mc";
  const size = num(width);
  const args = [size, temp("a"), temp("v"), temp("b")];
  const body: Stmt[] = [
    toMemory ? loadForWrite("a", width, address, true) : let_("a", regUnsigned("dst", width)),
    let_("v", regUnsigned("src", width)),
    let_("b", byCl ? and(fixedUnsigned(RCX, 8), num(width === 64 ? 63 : 31)) : imm),
    let_("r", sext(width, call(`${name}Result`, ...args))),
    let_("c", call(`${name}Carry`, ...args)),
    toMemory ? storeBack(width, temp("r")) : setReg("dst", width, temp("r")),
    {
      s: "if",
      when: compare("ne", temp("b"), num(0)),
      body: [
        {
          s: "flags",
          kind: "explicit",
          a: temp("c"),
          b: xor(temp("r"), bin("shl", temp("a"), num(64 - width))),
          r: temp("r"),
        },
      ],
    },
  ];
  return { name: `${name}${width}_${form}`, cold: width < 32 || toMemory, bytes: 16, latency: "shift", body };
}

/** RORX, SHLX, SHRX, SARX are not here: the simulated CPUs do not report BMI2. */
export const shiftOps: readonly Op[] = WIDTHS.flatMap((width) => [
  ...SHIFT_NAMES.flatMap((name) =>
    SHIFT_FORMS.flatMap((form): Op[] => {
      const full = shiftOp(name, width, form, true);
      const carries = name === "rcl" || name === "rcr";
      const dropsFlags = !carries && width >= 32 && (form === "ri" || form === "rc");
      return dropsFlags ? [full, shiftOp(name, width, form, false)] : [full];
    }),
  ),
  ...(width === 8 ? [] : SHIFT_FORMS.flatMap((form) => [doubleShift("shld", width, form), doubleShift("shrd", width, form)])),
]);

/** Address of the bit string element that BT with a register index into memory means. */
export function bitStringAddress(width: Width): Expr {
  const shift = width === 64 ? 6 : width === 32 ? 5 : 4;
  return add(address, bin("shl", bin("sar", reg("src", width), num(shift)), num(shift - 3)));
}
