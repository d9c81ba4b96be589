// Control transfer and the stack: Jcc JMP CALL RET LOOP JRCXZ PUSH POP LEAVE, the fused compare-and-branch forms, and the micro-ops
// that belong to the translator (links not yet made, checks of a following page, stale blocks).
import type { Condition, Op, Stmt, Width } from "../ir.ts";
import {
  add,
  address,
  CONDITIONS,
  compare,
  disp,
  fixed,
  flag,
  imm,
  let_,
  load,
  num,
  PAGE_BASE,
  RBP,
  RCX,
  RSP,
  reg,
  setFixed,
  setReg,
  sext,
  status,
  store,
  sub,
  temp,
} from "../ir.ts";
import { type AluName, aluFlags, computeAlu, fusedCondition, writesResult } from "./alu.ts";

function op(name: string, body: Stmt[], options: Partial<Omit<Op, "name" | "body">> = {}): Op {
  return { name, cold: false, bytes: 16, latency: "move", body, ...options };
}

const BRANCH = { bytes: 32, latency: "branch" } as const;

/** Macro-fused pairs: the flags are still set (lazily), the branch tests the operands. */
export const FUSED_ALU: readonly AluName[] = ["cmp", "test", "sub", "add", "and"];
export const FUSED_WIDTHS: readonly Width[] = [8, 32, 64];
export const FUSED_FORMS = ["rr", "ri"] as const;

export function isFused(name: AluName, width: Width, code: Condition): boolean {
  if (width === 16 || !FUSED_ALU.includes(name)) return false;
  if (width === 8 && writesResult(name)) return false;
  if (name === "add" && code !== "e" && code !== "ne") return false;
  return fusedCondition(name, code) !== undefined;
}

function fusedBranches(): Op[] {
  const ops: Op[] = [];
  for (const name of FUSED_ALU) {
    for (const width of FUSED_WIDTHS) {
      for (const form of FUSED_FORMS) {
        for (const code of CONDITIONS) {
          const when = fusedCondition(name, code);
          if (when === undefined || !isFused(name, width, code)) continue;
          const body: Stmt[] = [
            let_("a", reg("dst", width)),
            let_("b", form === "rr" ? reg("src", width) : imm),
            computeAlu(name, width),
            ...(writesResult(name) ? [setReg("dst", width, temp("r"))] : []),
            aluFlags(name),
            { s: "branch", when },
          ];
          ops.push(op(`${name}${width}_${form}_j${code}`, body, BRANCH));
        }
      }
    }
  }
  return ops;
}

const pushed = sub(fixed(RSP, 64), num(8));
const returnAddress = add(fixed(PAGE_BASE, 64), disp);

function push(name: string, value: Stmt, cold = false): Op {
  return op(name, [value, store(64, pushed, temp("v")), setFixed(RSP, 64, sub(fixed(RSP, 64), num(8)))], { cold });
}

/** CALL: `disp` is the return address relative to the page, as for every RIP-relative operand. */
function callTail(): Stmt[] {
  return [
    let_("w", returnAddress),
    store(64, pushed, temp("w")),
    setFixed(RSP, 64, sub(fixed(RSP, 64), num(8))),
    { s: "pushReturn", address: temp("w") },
  ];
}

const calls: readonly Op[] = [
  op("call", [...callTail(), { s: "jump" }], BRANCH),
  op("call_r", [let_("v", reg("dst", 64)), ...callTail(), { s: "indirect", target: temp("v"), via: "call" }], BRANCH),
  // The target was loaded into a temporary by a micro-op before, so that this one needs DISP for the return address alone.
  op(
    "ret",
    [load("v", 64, fixed(RSP, 64)), setFixed(RSP, 64, add(fixed(RSP, 64), num(8))), { s: "indirect", target: temp("v"), via: "return" }],
    BRANCH,
  ),
  op(
    "ret_imm",
    [
      load("v", 64, fixed(RSP, 64)),
      setFixed(RSP, 64, add(fixed(RSP, 64), add(imm, num(8)))),
      { s: "indirect", target: temp("v"), via: "return" },
    ],
    BRANCH,
  ),
  op("jmp", [{ s: "jump" }], BRANCH),
  op("jmp_r", [let_("v", reg("dst", 64)), { s: "indirect", target: temp("v"), via: "jump" }], BRANCH),
  op("jmp_m", [load("v", 64, address), { s: "indirect", target: temp("v"), via: "jump" }], BRANCH),
];

/** LOOP LOOPE LOOPNE decrement RCX (with 67h: ECX) without flags; JRCXZ and JECXZ only test. */
const countedBranches: readonly Op[] = [
  ...([64, 32] as const).flatMap((width) => {
    const suffix = width === 64 ? "" : "32";
    const count = [let_("v", sext(width, sub(fixed(RCX, width), num(1)))), setFixed(RCX, width, temp("v"))];
    return [
      op(`loop${suffix}`, [...count, { s: "branch", when: compare("ne", temp("v"), num(0)) }], BRANCH),
      ...(["e", "ne"] as const).map((code) =>
        op(
          `loop${code}${suffix}`,
          [
            ...count,
            let_("x", num(0)),
            { s: "if", when: flag(code), body: [let_("x", temp("v"))] },
            { s: "branch", when: compare("ne", temp("x"), num(0)) },
          ],
          BRANCH,
        ),
      ),
    ];
  }),
  op("jrcxz", [{ s: "branch", when: compare("eq", fixed(RCX, 64), num(0)) }], BRANCH),
  op("jecxz", [{ s: "branch", when: compare("eq", fixed(RCX, 32), num(0)) }], BRANCH),
];

const stack: readonly Op[] = [
  push("push64_r", let_("v", reg("src", 64))),
  push("push64_i", let_("v", imm)),
  push("push64_m", load("v", 64, address)),
  op("pop64_r", [load("v", 64, fixed(RSP, 64)), setFixed(RSP, 64, add(fixed(RSP, 64), num(8))), setReg("dst", 64, temp("v"))]),
  // POP to memory computes its address after the increment of RSP (SDM vol. 2): the translator adds 8 to a displacement from RSP.
  op("pop64_m", [load("v", 64, fixed(RSP, 64)), store(64, address, temp("v")), setFixed(RSP, 64, add(fixed(RSP, 64), num(8)))], {
    cold: true,
  }),
  op(
    "push16",
    [let_("v", reg("src", 16)), store(16, sub(fixed(RSP, 64), num(2)), temp("v")), setFixed(RSP, 64, sub(fixed(RSP, 64), num(2)))],
    { cold: true },
  ),
  op("pop16_r", [load("v", 16, fixed(RSP, 64)), setFixed(RSP, 64, add(fixed(RSP, 64), num(2))), setReg("dst", 16, temp("v"))], {
    cold: true,
  }),
  op("leave", [load("v", 64, fixed(RBP, 64)), setFixed(RSP, 64, add(fixed(RBP, 64), num(8))), setFixed(RBP, 64, temp("v"))]),
  // ENTER with nesting level 0: imm is the frame size.
  op(
    "enter",
    [
      let_("w", sub(fixed(RSP, 64), num(8))),
      store(64, temp("w"), fixed(RBP, 64)),
      setFixed(RBP, 64, temp("w")),
      setFixed(RSP, 64, sub(temp("w"), imm)),
    ],
    { cold: true },
  ),
];

/** Micro-ops of the translator itself. */
const translatorOps: readonly Op[] = [
  op("nop", []),
  // A link that was not followed yet, or that leaves the page: IMM is the target relative to PAGE_BASE.
  op("link_stub", [status("leaveToLink")], { cold: true, bytes: 32, latency: "branch" }),
  op("far_jump", [let_("v", add(fixed(PAGE_BASE, 64), disp)), { s: "indirect", target: temp("v"), via: "jump" }], BRANCH),
  // The instruction goes on in the next page: that page must still be the frame IMM it was translated from.
  op("check_next_page", [status("checkNextPage", imm)], { cold: true }),
  op("stale", [status("leaveStale")], { cold: true, latency: "branch" }),
  op("fetch_fault", [status("fetchFault")], { cold: true, latency: "system" }),
];

export const controlOps: readonly Op[] = [
  ...CONDITIONS.map((code) => op(`j${code}`, [{ s: "branch", when: flag(code) }], BRANCH)),
  ...fusedBranches(),
  ...calls,
  ...countedBranches,
  ...stack,
  ...translatorOps,
];
