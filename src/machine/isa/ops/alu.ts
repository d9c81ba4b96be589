// Two-operand arithmetic and logic, and the one-operand forms INC DEC NEG NOT. SDM vol. 2: ADD ADC SUB SBB CMP AND OR XOR TEST.
// Forms: rr (dst, src), ri (dst, imm), rm (dst, memory), mr (memory, src), mi (memory, imm). `_nf`: the flags are dead, so not set.
import type { Expr, Op, Operand, Stmt, Width } from "../ir.ts";
import {
  add,
  address,
  and,
  bin,
  bool,
  compare,
  flag,
  imm,
  let_,
  load,
  loadForWrite,
  num,
  or,
  reg,
  setReg,
  sext,
  storeBack,
  sub,
  temp,
  un,
  WIDTHS,
  xor,
} from "../ir.ts";

export const ALU_NAMES = ["add", "or", "adc", "sbb", "and", "sub", "xor", "cmp", "test"] as const;
export type AluName = (typeof ALU_NAMES)[number];

export const ALU_FORMS = ["rr", "ri", "rm", "mr", "mi"] as const;
export type AluForm = (typeof ALU_FORMS)[number];

/** CMP and TEST write no result. */
export function writesResult(name: AluName): boolean {
  return name !== "cmp" && name !== "test";
}

/** ADC and SBB read the carry, so their flags are never worth dropping. */
export function hasNoFlagsForm(name: AluName, form: AluForm): boolean {
  return writesResult(name) && name !== "adc" && name !== "sbb" && (form === "rr" || form === "ri");
}

/** r = a op b at `width`, in temps a, b, r. */
export function computeAlu(name: AluName, width: Width): Stmt {
  const a = temp("a");
  const b = temp("b");
  const carry = bool(flag("b"));
  const results: Readonly<Record<AluName, Expr>> = {
    add: add(a, b),
    adc: add(add(a, b), carry),
    sub: sub(a, b),
    sbb: sub(sub(a, b), carry),
    cmp: sub(a, b),
    and: and(a, b),
    test: and(a, b),
    or: or(a, b),
    xor: xor(a, b),
  };
  return let_("r", sext(width, results[name]));
}

export function aluFlags(name: AluName): Stmt {
  const a = temp("a");
  const b = temp("b");
  const r = temp("r");
  switch (name) {
    case "add":
    case "adc":
      return { s: "flags", kind: "add", a, b, r };
    case "sub":
    case "sbb":
    case "cmp":
      return { s: "flags", kind: "sub", a, b, r };
    case "and":
    case "or":
    case "xor":
    case "test":
      return { s: "flags", kind: "logic", r };
  }
}

function aluBody(name: AluName, width: Width, form: AluForm, flags: boolean): Stmt[] {
  const body: Stmt[] = [];
  const writes = writesResult(name);
  const toMemory = form === "mr" || form === "mi";
  if (toMemory) body.push(writes ? loadForWrite("a", width, address) : load("a", width, address));
  else body.push(let_("a", reg("dst", width)));
  if (form === "rm") body.push(load("b", width, address));
  else body.push(let_("b", form === "rr" || form === "mr" ? reg("src", width) : imm));
  body.push(computeAlu(name, width));
  if (writes) body.push(toMemory ? storeBack(width, temp("r")) : setReg("dst", width, temp("r")));
  if (flags) body.push(aluFlags(name));
  return body;
}

const UNARY_NAMES = ["inc", "dec", "neg", "not"] as const;
export type UnaryName = (typeof UNARY_NAMES)[number];
export const UNARY_ALU_NAMES: readonly UnaryName[] = UNARY_NAMES;

/** INC and DEC keep CF: AF is the carry out of bit 3, OF the change to or from the most negative number. */
function unaryTail(name: UnaryName, width: Width, write: (value: Expr) => Stmt): Stmt[] {
  const a = temp("a");
  const r = temp("r");
  const af = and(xor(r, a), num(0x10));
  switch (name) {
    case "inc":
    case "dec": {
      const overflow = name === "inc" ? and(r, un("not", a)) : and(a, un("not", r));
      return [
        let_("r", sext(width, name === "inc" ? add(a, num(1)) : sub(a, num(1)))),
        let_("c", or(bool(flag("b")), af)),
        write(r),
        { s: "flags", kind: "explicit", a: temp("c"), b: overflow, r },
      ];
    }
    case "neg":
      return [
        let_("b", a),
        let_("a", num(0)),
        let_("r", sext(width, un("neg", temp("b")))),
        write(r),
        { s: "flags", kind: "sub", a, b: temp("b"), r },
      ];
    case "not":
      return [let_("r", un("not", a)), write(r)];
  }
}

function unaryOps(width: Width): Op[] {
  const ops: Op[] = [];
  const dst: Operand = "dst";
  for (const name of UNARY_NAMES) {
    ops.push({
      name: `${name}${width}_r`,
      cold: width === 16,
      bytes: 16,
      latency: "alu",
      body: [let_("a", reg(dst, width)), ...unaryTail(name, width, (value) => setReg(dst, width, value))],
    });
    ops.push({
      name: `${name}${width}_m`,
      cold: width < 32,
      bytes: 16,
      latency: "alu",
      body: [loadForWrite("a", width, address), ...unaryTail(name, width, (value) => storeBack(width, value))],
    });
  }
  return ops;
}

/** INC and DEC of a register when flags are dead. */
function incDecNoFlags(width: Width): Op[] {
  const one = num(1);
  const a = reg("dst", width);
  const step = (name: string, op: "add" | "sub"): Op => ({
    name: `${name}${width}_r_nf`,
    cold: false,
    bytes: 16,
    latency: "alu",
    body: [setReg("dst", width, bin(op, a, one))],
  });
  return [step("inc", "add"), step("dec", "sub")];
}

export const aluOps: readonly Op[] = WIDTHS.flatMap((width) => [
  ...ALU_NAMES.flatMap((name) =>
    ALU_FORMS.flatMap((form): Op[] => {
      // TEST is symmetric, and has one encoding with memory.
      if (name === "test" && form === "rm") return [];
      const carries = name === "adc" || name === "sbb";
      const base = { bytes: 16, latency: "alu" } as const;
      const cold = (carries && (width < 32 || form === "mr" || form === "mi")) || (width === 16 && form !== "rr" && form !== "ri");
      const full: Op = { ...base, cold, name: `${name}${width}_${form}`, body: aluBody(name, width, form, true) };
      if (!hasNoFlagsForm(name, form) || width < 32) return [full];
      return [full, { ...base, cold, name: `${name}${width}_${form}_nf`, body: aluBody(name, width, form, false) }];
    }),
  ),
  ...unaryOps(width),
  ...(width >= 32 ? incDecNoFlags(width) : []),
]);

/** Whether a condition of a compare can be computed straight from operands and result: what fused branches need. */
export function fusedCondition(name: AluName, code: string) {
  const a = temp("a");
  const b = temp("b");
  const r = temp("r");
  const zero = num(0);
  switch (code) {
    case "e":
      return compare("eq", r, zero);
    case "ne":
      return compare("ne", r, zero);
    case "s":
      return compare("lt", r, zero);
    case "ns":
      return compare("ge", r, zero);
    default:
      break;
  }
  if (name === "cmp" || name === "sub") {
    switch (code) {
      case "b":
        return compare("ltu", a, b);
      case "ae":
        return compare("geu", a, b);
      case "be":
        return compare("leu", a, b);
      case "a":
        return compare("gtu", a, b);
      case "l":
        return compare("lt", a, b);
      case "ge":
        return compare("ge", a, b);
      case "le":
        return compare("le", a, b);
      case "g":
        return compare("gt", a, b);
      default:
        return undefined;
    }
  }
  if (name === "test" || name === "and" || name === "or" || name === "xor") {
    switch (code) {
      case "l":
        return compare("lt", r, zero);
      case "ge":
        return compare("ge", r, zero);
      case "le":
        return compare("le", r, zero);
      case "g":
        return compare("gt", r, zero);
      default:
        return undefined;
    }
  }
  return undefined;
}
