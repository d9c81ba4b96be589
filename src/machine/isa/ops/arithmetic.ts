// Multiplication, division, and the bit instructions. SDM vol. 2: MUL IMUL DIV IDIV, BT BTS BTR BTC, BSF BSR TZCNT LZCNT POPCNT,
// XADD CMPXCHG.
import type { Expr, Op, Operand, Stmt, Width } from "../ir.ts";
import {
  add,
  address,
  and,
  bin,
  bool,
  call,
  compare,
  fixed,
  fixedUnsigned,
  flagBits,
  imm,
  let_,
  load,
  loadForWrite,
  num,
  or,
  RAX,
  RDX,
  reg,
  regUnsigned,
  select,
  setFixed,
  setReg,
  sext,
  storeBack,
  sub,
  temp,
  un,
  WIDTHS,
  zext,
} from "../ir.ts";
import { bitStringAddress } from "./shift.ts";

const DIVIDE_ERROR = 0;

/** IMUL with two and three operands: CF and OF say that the product was cut. */
function shortMultiply(name: string, width: Width, source: Stmt[], cold: boolean, latency: Op["latency"] = "multiply"): Op {
  const a = temp("a");
  const b = temp("b");
  const r = temp("r");
  const cut = width === 64 ? compare("ne", call("multiplyHighSigned", a, b), bin("sar", r, num(63))) : compare("ne", bin("mul", a, b), r);
  return {
    name,
    cold,
    bytes: 16,
    latency,
    body: [
      ...source,
      let_("r", sext(width, bin("mul", a, b))),
      let_("c", bool(cut)),
      setReg("dst", width, r),
      { s: "flags", kind: "explicit", a: temp("c"), b: bin("shl", temp("c"), num(63)), r },
    ],
  };
}

function multiplyNoFlags(name: string, width: Width, source: Stmt[]): Op {
  return {
    name,
    cold: false,
    bytes: 16,
    latency: "multiply",
    body: [...source, setReg("dst", width, bin("mul", temp("a"), temp("b")))],
  };
}

/** MUL and IMUL with one operand: RDX:RAX (AX for bytes). The operand is in b. */
function longMultiply(name: "mul" | "imul", width: Width, form: "r" | "m"): Op {
  const unsigned = name === "mul";
  const b: Stmt = form === "m" ? load("b", width, address, unsigned) : let_("b", unsigned ? regUnsigned("src", width) : reg("src", width));
  const a = let_("a", unsigned ? fixedUnsigned(RAX, width) : fixed(RAX, width));
  const product = bin("mul", temp("a"), temp("b"));
  const high =
    width === 64
      ? call(unsigned ? "multiplyHighUnsigned" : "multiplyHighSigned", temp("a"), temp("b"))
      : bin(unsigned ? "shr" : "sar", temp("r"), num(width));
  const body: Stmt[] = [b, a, let_("r", product), let_("v", high)];
  const fits = unsigned
    ? compare("ne", width === 64 ? temp("v") : zext(width, temp("v")), num(0))
    : width === 64
      ? compare("ne", temp("v"), bin("sar", temp("r"), num(63)))
      : compare("ne", temp("r"), sext(width, temp("r")));
  body.push(let_("c", bool(fits)));
  if (width === 8) body.push(setFixed(RAX, 16, temp("r")));
  else body.push(setFixed(RAX, width, temp("r")), setFixed(RDX, width, temp("v")));
  body.push({ s: "flags", kind: "explicit", a: temp("c"), b: bin("shl", temp("c"), num(63)), r: sext(width, temp("r")) });
  return { name: `${name}${width}_${form}`, cold: width < 32, bytes: 16, latency: "multiply", body };
}

/** DIV and IDIV. Divisor in b; quotient in r, remainder in v. Flags are undefined: they stay. */
function divide(name: "div" | "idiv", width: Width, form: "r" | "m"): Op {
  const unsigned = name === "div";
  const divisor: Stmt =
    form === "m" ? load("b", width, address, unsigned) : let_("b", unsigned ? regUnsigned("src", width) : reg("src", width));
  const body: Stmt[] = [divisor];
  const b = temp("b");
  const raise: Stmt = { s: "raise", vector: DIVIDE_ERROR };
  if (width === 64) {
    body.push(let_("a", fixed(RAX, 64)), let_("x", fixed(RDX, 64)));
    if (unsigned) {
      body.push({ s: "if", when: compare("geu", temp("x"), b), body: [raise] });
      body.push(let_("r", call("divideUnsigned128", temp("x"), temp("a"), b)));
    } else {
      body.push({ s: "if", when: compare("ne", call("divideSignedOverflows", temp("x"), temp("a"), b), num(0)), body: [raise] });
      body.push(let_("r", call("divideSigned128", temp("x"), temp("a"), b)));
    }
    body.push(let_("v", sub(temp("a"), bin("mul", temp("r"), b))));
  } else {
    const low = fixedUnsigned(RAX, width);
    const dividend = width === 8 ? fixedUnsigned(RAX, 16) : or(bin("shl", fixedUnsigned(RDX, width), num(width)), low);
    body.push(let_("a", unsigned ? dividend : sext(width === 8 ? 16 : width === 16 ? 32 : 64, dividend)));
    body.push({ s: "if", when: compare("eq", b, num(0)), body: [raise] });
    if (unsigned) {
      body.push(let_("r", bin("divu", temp("a"), b)));
      body.push({ s: "if", when: compare("ne", bin("shr", temp("r"), num(width)), num(0)), body: [raise] });
    } else {
      body.push(let_("r", call("divideSigned64", temp("a"), b)));
      body.push({ s: "if", when: compare("ne", sext(width, temp("r")), temp("r")), body: [raise] });
    }
    body.push(let_("v", sub(temp("a"), bin("mul", temp("r"), b))));
  }
  if (width === 8) body.push(setFixed(RAX, 8, temp("r")), setFixed(RAX + 1, 8, temp("v")));
  else body.push(setFixed(RAX, width, temp("r")), setFixed(RDX, width, temp("v")));
  return { name: `${name}${width}_${form}`, cold: width < 32 || form === "m", bytes: 16, latency: "divide", body };
}

export const BIT_TESTS = ["bt", "bts", "btr", "btc"] as const;
export type BitTest = (typeof BIT_TESTS)[number];
export const BIT_TEST_FORMS = ["rr", "ri", "mr", "mi"] as const;

function bitTest(name: BitTest, width: Width, form: (typeof BIT_TEST_FORMS)[number]): Op {
  const toMemory = form === "mr" || form === "mi";
  const place = form === "mr" ? bitStringAddress(width) : address;
  const index = form === "rr" || form === "mr" ? reg("src", width) : imm;
  const mask = bin("shl", num(1), temp("b"));
  const body: Stmt[] = [];
  if (!toMemory) body.push(let_("a", regUnsigned("dst", width)));
  else body.push(name === "bt" ? load("a", width, place, true) : loadForWrite("a", width, place, true));
  body.push(let_("b", and(index, num(width - 1))), let_("c", and(bin("shr", temp("a"), temp("b")), num(1))));
  if (name !== "bt") {
    const results: Readonly<Record<Exclude<BitTest, "bt">, Expr>> = {
      bts: or(temp("a"), mask),
      btr: and(temp("a"), un("not", mask)),
      btc: bin("xor", temp("a"), mask),
    };
    body.push(toMemory ? storeBack(width, results[name]) : setReg("dst", width, results[name]));
  }
  // Only CF is defined to change; ZF stays, the others are undefined and stay too.
  body.push({ s: "flags", kind: "raw", a: or(and(flagBits, num(~1)), temp("c")) });
  const cold = width === 16 || toMemory || name === "btc";
  return { name: `${name}${width}_${form}`, cold, bytes: 16, latency: "alu", body };
}

export const BIT_SCANS = ["bsf", "bsr", "tzcnt", "lzcnt", "popcnt"] as const;
export type BitScan = (typeof BIT_SCANS)[number];

const ZF = 0x40;

function bitScan(name: BitScan, width: Width, form: "rr" | "rm"): Op {
  const a = temp("a");
  const source: Stmt = form === "rm" ? load("a", width, address, true) : let_("a", regUnsigned("src", width));
  const isZero = compare("eq", a, num(0));
  const zf = bin("shl", bool(isZero), num(6));
  const top = sub(num(63), un("clz", a));
  const body: Stmt[] = [source];
  switch (name) {
    case "bsf":
    case "bsr":
      // A zero source leaves the destination (AMD's documented behaviour, and Intel's in fact): all 64 bits, also for 32-bit operands.
      body.push({ s: "if", when: compare("ne", a, num(0)), body: [setReg("dst", width, name === "bsf" ? un("ctz", a) : top)] });
      body.push({ s: "flags", kind: "raw", a: or(and(flagBits, num(~ZF)), zf) });
      break;
    case "tzcnt":
      body.push(let_("r", select(isZero, num(width), un("ctz", a))));
      body.push(setReg("dst", width, temp("r")), countFlags());
      break;
    case "lzcnt":
      body.push(let_("r", sub(un("clz", a), num(64 - width))));
      body.push(setReg("dst", width, temp("r")), countFlags());
      break;
    case "popcnt":
      body.push(setReg("dst", width, un("popcnt", a)), { s: "flags", kind: "raw", a: zf });
      break;
  }
  return { name: `${name}${width}_${form}`, cold: width === 16 || form === "rm", bytes: 16, latency: "bits", body };

  /** TZCNT and LZCNT: CF says that the source was zero, ZF that the result is. */
  function countFlags(): Stmt {
    const resultZero = bin("shl", bool(compare("eq", temp("r"), num(0))), num(6));
    return { s: "flags", kind: "raw", a: or(or(and(flagBits, num(~(ZF | 1))), bool(isZero)), resultZero) };
  }
}

/** XADD: the sum to the destination, its old value to the source register. */
function exchangeAdd(width: Width, form: "rr" | "mr"): Op {
  const toMemory = form === "mr";
  const body: Stmt[] = [
    toMemory ? loadForWrite("a", width, address) : let_("a", reg("dst", width)),
    let_("b", reg("src", width)),
    let_("r", sext(width, add(temp("a"), temp("b")))),
  ];
  if (toMemory) body.push(storeBack(width, temp("r")), setReg("src", width, temp("a")));
  else body.push(setReg("src", width, temp("a")), setReg("dst", width, temp("r")));
  body.push({ s: "flags", kind: "add", a: temp("a"), b: temp("b"), r: temp("r") });
  return { name: `xadd${width}_${form}`, cold: width < 32, bytes: 16, latency: toMemory ? "slow" : "alu", body };
}

/** CMPXCHG: the destination is written in either case (SDM), the accumulator only on failure. */
function compareExchange(width: Width, form: "rr" | "mr"): Op {
  const toMemory = form === "mr";
  const dst: Operand = "dst";
  const equal = compare("eq", temp("a"), temp("b"));
  const body: Stmt[] = [
    toMemory ? loadForWrite("b", width, address) : let_("b", reg(dst, width)),
    let_("a", fixed(RAX, width)),
    let_("r", sext(width, sub(temp("a"), temp("b")))),
    let_("v", select(equal, reg("src", width), temp("b"))),
  ];
  if (toMemory) {
    body.push(storeBack(width, temp("v")));
    body.push({ s: "if", when: compare("ne", temp("a"), temp("b")), body: [setFixed(RAX, width, temp("b"))] });
  } else {
    // When it fails the register form writes only the accumulator; a 32-bit destination is not even zero-extended.
    body.push({ s: "if", when: equal, body: [setReg(dst, width, temp("v"))] });
    body.push({ s: "if", when: compare("ne", temp("a"), temp("b")), body: [setFixed(RAX, width, temp("b"))] });
  }
  body.push({ s: "flags", kind: "sub", a: temp("a"), b: temp("b"), r: temp("r") });
  return { name: `cmpxchg${width}_${form}`, cold: width < 32, bytes: 16, latency: "slow", body };
}

const fromRegisters = (width: Width): Stmt[] => [let_("a", reg("dst", width)), let_("b", reg("src", width))];
const fromImmediate = (width: Width): Stmt[] => [let_("a", reg("src", width)), let_("b", imm)];

export const arithmeticOps: readonly Op[] = WIDTHS.flatMap((width): Op[] => [
  ...(["mul", "imul"] as const).flatMap((name) => [longMultiply(name, width, "r"), longMultiply(name, width, "m")]),
  ...(["div", "idiv"] as const).flatMap((name) => [divide(name, width, "r"), divide(name, width, "m")]),
  ...(["rr", "mr"] as const).flatMap((form) => [exchangeAdd(width, form), compareExchange(width, form)]),
  ...(width === 8
    ? []
    : [
        shortMultiply(`imul${width}_rr`, width, fromRegisters(width), width === 16),
        shortMultiply(`imul${width}_rm`, width, [load("b", width, address), let_("a", reg("dst", width))], width === 16),
        shortMultiply(`imul${width}_rri`, width, fromImmediate(width), width === 16),
        shortMultiply(`imul${width}_rmi`, width, [load("a", width, address), let_("b", imm)], true),
        ...(width >= 32
          ? [
              multiplyNoFlags(`imul${width}_rr_nf`, width, fromRegisters(width)),
              multiplyNoFlags(`imul${width}_rri_nf`, width, fromImmediate(width)),
            ]
          : []),
        ...BIT_TESTS.flatMap((name) => BIT_TEST_FORMS.map((form) => bitTest(name, width, form))),
        ...BIT_SCANS.flatMap((name) => [bitScan(name, width, "rr"), bitScan(name, width, "rm")]),
      ]),
]);
