// Moves: MOV MOVZX MOVSX LEA XCHG BSWAP CMOVcc SETcc and the sign extensions of the accumulator. SDM vol. 2.
import type { Op, Stmt, Width } from "../ir.ts";
import {
  address,
  and,
  bin,
  bool,
  CONDITIONS,
  call,
  fixed,
  flag,
  imm,
  imm64,
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
  store,
  storeBack,
  temp,
  WIDTHS,
} from "../ir.ts";

function op(name: string, body: Stmt[], options: { cold?: boolean; latency?: Op["latency"] } = {}): Op {
  return { name, cold: options.cold ?? false, bytes: 16, latency: options.latency ?? "move", body };
}

function plainMoves(width: Width): Op[] {
  return [
    op(`mov${width}_rr`, [setReg("dst", width, reg("src", width))]),
    op(`mov${width}_ri`, [setReg("dst", width, imm)]),
    op(`mov${width}_rm`, [load("v", width, address), setReg("dst", width, temp("v"))]),
    op(`mov${width}_mr`, [store(width, address, reg("src", width))]),
    op(`mov${width}_mi`, [store(width, address, imm)]),
    op(`xchg${width}_rr`, [let_("a", reg("dst", width)), setReg("dst", width, reg("src", width)), setReg("src", width, temp("a"))], {
      cold: width < 32,
    }),
    // XCHG with memory locks; a stand-alone simulated CPU executes whole instructions, so every read-modify-write is atomic.
    op(`xchg${width}_mr`, [loadForWrite("a", width, address), storeBack(width, reg("src", width)), setReg("src", width, temp("a"))], {
      cold: width < 32,
      latency: "slow",
    }),
  ];
}

/** MOVZX, MOVSX, MOVSXD from `from` to `to` bits. */
function extendingMoves(from: Width, to: Width): Op[] {
  const cold = to === 16;
  return [
    op(`movzx${to}_${from}_rr`, [setReg("dst", to, regUnsigned("src", from))], { cold }),
    op(`movzx${to}_${from}_rm`, [load("v", from, address, true), setReg("dst", to, temp("v"))], { cold }),
    op(`movsx${to}_${from}_rr`, [setReg("dst", to, reg("src", from))], { cold }),
    op(`movsx${to}_${from}_rm`, [load("v", from, address), setReg("dst", to, temp("v"))], { cold }),
  ];
}

function conditionalMoves(): Op[] {
  return CONDITIONS.flatMap((code) => {
    const rare = code === "o" || code === "no" || code === "p" || code === "np";
    return [
      ...([16, 32, 64] as const).flatMap((width) => [
        op(`cmov${code}${width}_rr`, [setReg("dst", width, select(flag(code), reg("src", width), reg("dst", width)))], {
          cold: rare || width === 16,
          latency: "alu",
        }),
        op(`cmov${code}${width}_rm`, [load("v", width, address), setReg("dst", width, select(flag(code), temp("v"), reg("dst", width)))], {
          cold: rare || width === 16,
          latency: "alu",
        }),
      ]),
      op(`set${code}_r`, [setReg("dst", 8, bool(flag(code)))], { cold: rare, latency: "alu" }),
      op(`set${code}_m`, [store(8, address, bool(flag(code)))], { cold: true, latency: "alu" }),
    ];
  });
}

/** CBW CWDE CDQE, CWD CDQ CQO. */
const accumulatorExtensions: readonly Op[] = [
  op("cbw", [setFixed(RAX, 16, fixed(RAX, 8))], { latency: "alu" }),
  op("cwde", [setFixed(RAX, 32, fixed(RAX, 16))], { latency: "alu" }),
  op("cdqe", [setFixed(RAX, 64, fixed(RAX, 32))], { latency: "alu" }),
  op("cwd", [setFixed(RDX, 16, bin("sar", fixed(RAX, 16), num(63)))], { latency: "alu" }),
  op("cdq", [setFixed(RDX, 32, bin("sar", fixed(RAX, 32), num(63)))], { latency: "alu" }),
  op("cqo", [setFixed(RDX, 64, bin("sar", fixed(RAX, 64), num(63)))], { latency: "alu" }),
];

/** SAHF and LAHF. Bit 1 of the flags byte reads as one. */
const flagMoves: readonly Op[] = [
  op(
    "sahf",
    [
      let_("a", bin("shr", fixed(RAX, 16), num(8))),
      {
        s: "flags",
        kind: "raw",
        a: or(and(temp("a"), num(0xd5)), and({ k: "flagBits" }, num(0x800))),
      },
    ],
    { cold: true, latency: "alu" },
  ),
  op("lahf", [setFixed(RAX + 1, 8, or(and({ k: "flagBits" }, num(0xd5)), num(2)))], { cold: true, latency: "alu" }),
];

/** CLC STC CMC. */
const carryOps: readonly Op[] = [
  op("clc", [{ s: "flags", kind: "raw", a: and({ k: "flagBits" }, num(~1)) }], { cold: true, latency: "alu" }),
  op("stc", [{ s: "flags", kind: "raw", a: or({ k: "flagBits" }, num(1)) }], { cold: true, latency: "alu" }),
  op("cmc", [{ s: "flags", kind: "raw", a: bin("xor", { k: "flagBits" }, num(1)) }], { cold: true, latency: "alu" }),
];

export const moveOps: readonly Op[] = [
  ...WIDTHS.flatMap(plainMoves),
  op("mov64_imm64", [setReg("dst", 64, imm64)]),
  ...extendingMoves(8, 16),
  ...extendingMoves(8, 32),
  ...extendingMoves(8, 64),
  ...extendingMoves(16, 32),
  ...extendingMoves(16, 64),
  op("movsx64_32_rr", [setReg("dst", 64, reg("src", 32))]),
  op("movsx64_32_rm", [load("v", 32, address), setReg("dst", 64, temp("v"))]),
  op("lea16", [setReg("dst", 16, address)], { cold: true, latency: "alu" }),
  op("lea32", [setReg("dst", 32, address)], { latency: "alu" }),
  op("lea64", [setReg("dst", 64, address)], { latency: "alu" }),
  op("bswap32", [setReg("dst", 32, call("swapBytes32", reg("dst", 32)))], { latency: "alu" }),
  op("bswap64", [setReg("dst", 64, call("swapBytes64", reg("dst", 64)))], { latency: "alu" }),
  op("movbe16_rm", [load("v", 16, address), setReg("dst", 16, call("swapBytes16", temp("v")))], { cold: true }),
  op("movbe32_rm", [load("v", 32, address), setReg("dst", 32, call("swapBytes32", temp("v")))], { cold: true }),
  op("movbe64_rm", [load("v", 64, address), setReg("dst", 64, call("swapBytes64", temp("v")))], { cold: true }),
  op("movbe16_mr", [store(16, address, call("swapBytes16", reg("src", 16)))], { cold: true }),
  op("movbe32_mr", [store(32, address, call("swapBytes32", reg("src", 32)))], { cold: true }),
  op("movbe64_mr", [store(64, address, call("swapBytes64", reg("src", 64)))], { cold: true }),
  op(
    "xlat",
    [load("v", 8, call("addAddress", address, { k: "fixed", offset: RAX, width: 8, unsigned: true })), setFixed(RAX, 8, temp("v"))],
    {
      cold: true,
    },
  ),
  ...conditionalMoves(),
  ...accumulatorExtensions,
  ...flagMoves,
  ...carryOps,
];
